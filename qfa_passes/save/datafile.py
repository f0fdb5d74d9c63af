"""Writes the external data file: aligned, each distinct tensor once, named by its content."""

import hashlib
from dataclasses import dataclass
from typing import Final

from onnx import ModelProto, TensorProto

from qfa_passes.core.walk import all_tensors
from qfa_passes.core.weights import WeightStore, is_hollow, location_of
from qfa_passes.save.commit import Draft

CHUNK: Final = 1 << 20
"""Most bytes of a tensor in memory at a time."""

ALIGNMENT: Final = 64
PAGE: Final = 4096
"""Alignment of tensors of at least one page, so that runtimes can map them."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a tensor landed in the data file."""

    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class DataFile:
    """A written data file: places by tensor (in the order of ``hollow_tensors``), length, hash of its content."""

    extents: tuple[Extent, ...]
    nbytes: int
    content_hash: str


def hollow_tensors(proto: ModelProto) -> list[TensorProto]:
    """Returns the tensors of a shell whose bytes are in the store, in a fixed order."""
    return [tensor for _, tensor in all_tensors(proto) if is_hollow(tensor)]


def write_data(tensors: list[TensorProto], weights: WeightStore, out: Draft) -> DataFile:
    """Streams tensors into ``out``.

    A tensor that turns out to equal an earlier one is taken back: no second pass over the weights is needed to find
    duplicates.
    """
    known: dict[tuple[int, bytes], Extent] = {}
    by_location: dict[str, Extent] = {}
    extents: list[Extent] = []
    content = hashlib.sha256()
    end = 0
    for tensor in tensors:
        location = location_of(tensor)
        extent = by_location.get(location)
        if extent is None:
            place = weights.source(tensor)
            start = _aligned(end, place.nbytes)
            out.stream.write(bytes(start - end))
            digest = hashlib.sha256()
            for chunk in weights.chunks(place, CHUNK):
                digest.update(chunk)
                out.stream.write(chunk)
            key = (place.nbytes, digest.digest())
            extent = known.get(key)
            if extent is None:
                extent = known[key] = Extent(start, place.nbytes)
                content.update(b"%d:%d:%s;" % (start, place.nbytes, digest.hexdigest().encode()))
                end = start + place.nbytes
            else:
                out.stream.seek(end)
            by_location[location] = extent
        extents.append(extent)
    out.stream.flush()
    out.stream.truncate(end)
    return DataFile(tuple(extents), end, content.hexdigest())


def _aligned(position: int, nbytes: int) -> int:
    """Rounds a position up to what a tensor of this length needs."""
    step = PAGE if nbytes >= PAGE else ALIGNMENT
    return -(-position // step) * step
