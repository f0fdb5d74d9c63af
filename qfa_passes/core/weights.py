"""Where the bytes of large tensors live, so that no stage holds more of a model in memory than it touches.

A loaded model is a *shell*: a ModelProto whose large initializers carry no bytes but an external-data location of the
form ``qfa:<number>``. The number is a key of the WeightStore. Passes move and rename such initializers freely; the bytes
are read (memory-mapped where possible) only when somebody asks for them.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

SCHEME: Final = "qfa:"
INLINE_LIMIT: Final = 1024
"""Initializers of at most this many bytes stay in the shell, so that shape arithmetic can be folded."""


@dataclass(frozen=True, slots=True)
class FileSlice:
    """``nbytes`` bytes at ``offset`` of a file."""

    path: Path
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes held in memory (a tensor made by a pass, or one of a ModelProto that the caller owns)."""

    data: bytes | npt.NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return len(self.data)


WeightSource = FileSlice | Blob


@dataclass(slots=True)
class WeightStore:
    """Maps external-data locations of a shell to the places of their bytes."""

    _sources: dict[str, WeightSource] = field(default_factory=dict)
    _maps: dict[Path, mmap.mmap] = field(default_factory=dict)

    def add(self, source: WeightSource) -> str:
        """Registers bytes and returns the location string for ``external_data``."""
        key = f"{SCHEME}{len(self._sources)}"
        self._sources[key] = source
        return key

    def source(self, tensor: TensorProto) -> WeightSource:
        """Returns the place of a shell initializer's bytes."""
        return self._sources[location_of(tensor)]

    def view(self, tensor: TensorProto) -> memoryview:
        """Returns the raw little-endian bytes of a shell initializer, read-only and without a copy."""
        source = self.source(tensor)
        if isinstance(source, Blob):
            return memoryview(source.data).cast("B")
        if source.nbytes == 0:
            return memoryview(b"")
        mapped = self._maps.get(source.path)
        if mapped is None:
            with source.path.open("rb") as stream:
                mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps[source.path] = mapped
        return memoryview(mapped)[source.offset : source.offset + source.nbytes]

    def __iter__(self) -> Iterator[tuple[str, WeightSource]]:
        """Iterates over (location, source)."""
        return iter(self._sources.items())


def location_of(tensor: TensorProto) -> str:
    """Returns the external-data location of a tensor, or an empty string."""
    for entry in tensor.external_data:
        if entry.key == "location":
            return entry.value
    return ""


def is_hollow(tensor: TensorProto) -> bool:
    """True if the tensor's bytes are in a WeightStore."""
    return tensor.data_location == TensorProto.EXTERNAL and location_of(tensor).startswith(SCHEME)


def hollow_tensor(name: str, data_type: int, dims: tuple[int, ...], location: str) -> TensorProto:
    """Makes a shell initializer that refers to ``location``."""
    tensor = TensorProto(name=name, data_type=data_type, dims=dims)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor
