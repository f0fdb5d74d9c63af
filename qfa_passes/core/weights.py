"""Where the bytes of large tensors live, so that no stage holds more of a model in memory than it touches.

A loaded model is a *shell*: a ModelProto whose large initializers carry no bytes but an external-data
location of the form ``qfa:<number>``. The number is a key of the WeightStore. Passes move and rename such
initializers freely; the bytes are read (memory-mapped where possible) only when somebody asks for them.
"""

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from qfa_passes.core.printable import printable
from qfa_passes.errors import InvalidModelError

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

    @property
    def view(self) -> memoryview:
        """The bytes, read-only and without a copy."""
        data = self.data
        whole = data.data if isinstance(data, np.ndarray) else memoryview(data)
        return whole.cast("B").toreadonly()


WeightSource = FileSlice | Blob


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What must not change while a file's bytes are in use."""

    device: int
    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileIdentity":
        """Reads it from a ``stat`` result."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(slots=True)
class WeightStore:
    """Maps external-data locations of a shell to the places of their bytes."""

    _sources: dict[str, WeightSource] = field(default_factory=dict)
    _maps: dict[Path, mmap.mmap] = field(default_factory=dict)
    _identities: dict[Path, FileIdentity] = field(default_factory=dict)

    def add(self, source: WeightSource) -> str:
        """Registers bytes and returns the location string for ``external_data``."""
        key = f"{SCHEME}{len(self._sources)}"
        self._sources[key] = source
        return key

    def pin(self, path: Path, identity: FileIdentity) -> None:
        """Remembers what a checked file looked like; a file that differs later is refused, not read."""
        self._identities[path] = identity

    def source(self, tensor: TensorProto) -> WeightSource:
        """Returns the place of a shell initializer's bytes."""
        return self._sources[location_of(tensor)]

    def view(self, tensor: TensorProto) -> memoryview:
        """Returns the raw little-endian bytes of a shell initializer, read-only and without a copy.

        Raises:
            InvalidModelError: The file changed since it was checked. A file that shrinks *after* this call still
                makes access to the mapping fail (SIGBUS); ``chunks`` has no such window.
        """
        source = self.source(tensor)
        if isinstance(source, Blob):
            return source.view
        if source.nbytes == 0:
            return memoryview(b"")
        mapped = self._maps.get(source.path)
        if mapped is None:
            descriptor = self._open(source.path)
            try:
                mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
            finally:
                os.close(descriptor)
            self._maps[source.path] = mapped
        end = source.offset + source.nbytes
        # size() asks the file, not the mapping: a file cut short after mapping would raise SIGBUS on access.
        if mapped.size() < end or len(mapped) < end:
            raise _changed(source.path)
        return memoryview(mapped)[source.offset : end]

    def chunks(self, source: WeightSource, size: int = 1 << 20) -> Iterator[memoryview]:
        """Yields the bytes of ``source`` in pieces of at most ``size`` bytes, never mapping the file."""
        if isinstance(source, Blob):
            view = source.view
            for start in range(0, len(view), size):
                yield view[start : start + size]
            return
        descriptor = self._open(source.path)
        try:
            position, end = source.offset, source.offset + source.nbytes
            while position < end:
                piece = os.pread(descriptor, min(size, end - position), position)
                if not piece:
                    raise _changed(source.path)
                yield memoryview(piece)
                position += len(piece)
            self._check(source.path, descriptor)
        finally:
            os.close(descriptor)

    def __iter__(self) -> Iterator[tuple[str, WeightSource]]:
        """Iterates over (location, source)."""
        return iter(self._sources.items())

    def _open(self, path: Path) -> int:
        """Opens a checked file and makes sure that it is still the same."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise _changed(path, error.strerror or "") from error
        try:
            self._check(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _check(self, path: Path, descriptor: int) -> None:
        """Compares an open file with what was pinned."""
        pinned = self._identities.get(path)
        if pinned is not None and FileIdentity.of(os.fstat(descriptor)) != pinned:
            raise _changed(path)


def _changed(path: Path, reason: str = "") -> InvalidModelError:
    """The error for a file that is no longer what was checked."""
    return InvalidModelError(
        f"'{printable(str(path))}' changed while it was in use",
        why=reason or "another program wrote, replaced or truncated it after it was read",
        hint="run again when nothing writes to the model's folder",
    )


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
    hollow_out(tensor, location)
    return tensor


def hollow_out(tensor: TensorProto, location: str) -> None:
    """Turns a tensor in place into one whose bytes are at ``location`` of the store."""
    for name in _DATA_FIELDS:
        tensor.ClearField(name)
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    tensor.external_data.add(key="location", value=location)


_DATA_FIELDS: Final = (
    "float_data",
    "int32_data",
    "int64_data",
    "double_data",
    "uint64_data",
    "raw_data",
)
