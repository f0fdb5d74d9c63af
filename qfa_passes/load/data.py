"""Reads verification and calibration data: an .npz file with one array per model input.

Format: the array called like an input holds N samples along its first axis, the batch axis of the model; all arrays
have the same N. ``numpy.savez("data.npz", input_ids=ids, attention_mask=mask)`` writes it. Nothing is ever unpickled.
"""

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from os import PathLike
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from qfa_passes.core.printable import printable
from qfa_passes.errors import InvalidDataError, LimitExceededError
from qfa_passes.load.limits import Limits
from qfa_passes.load.sniff import describe
from qfa_passes.load.source import open_file

Array = npt.NDArray[Any]

_MAX_ARRAYS: Final = 1000
_KINDS: Final = "biuf"
_HEADER_READERS: Final = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# What the header parser (tokenizer and literal evaluation) raises on hostile text.
_HEADER_ERRORS: Final = (
    ValueError,
    KeyError,
    TypeError,
    SyntaxError,
    TokenError,
    RecursionError,
    MemoryError,
)


@dataclass(frozen=True, slots=True)
class Samples:
    """Inputs for a model.

    Attributes:
        arrays: By input name, (N, ...) each.
        count: N, at least 1.
        origin: Where they came from, for messages and reports.
    """

    arrays: Mapping[str, Array]
    count: int
    origin: str


def read_samples(
    source: str | PathLike[str] | Mapping[str, Array],
    *,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
) -> Samples:
    """Reads an .npz file, or takes arrays that are in memory already.

    Raises:
        UsageError: The file cannot be opened.
        InvalidDataError: No .npz file, pickled objects, or arrays that do not belong together.
        LimitExceededError: The arrays would need more than ``limits.data_bytes`` once inflated.
    """
    if isinstance(source, Mapping):
        origin = "in memory"
        arrays = {str(name): np.asarray(array) for name, array in source.items()}
        for name, array in arrays.items():
            _check_dtype(array.dtype, name, origin)
    else:
        path = Path(source)
        origin = f"'{printable(str(path))}'"
        with (
            open_file(path, "data file") as file,
            open(file.descriptor, "rb", closefd=False) as stream,
        ):
            kind = describe(file.read(0, min(512, file.size)))
            try:
                arrays = _read_archive(stream, origin, limits)
            except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
                why = str(error) if kind.startswith("a ZIP") or not kind else f"it is {kind}"
                raise _bad(f"data {origin} is not a readable .npz file", why) from error
    counts = {name: array.shape[0] for name, array in arrays.items() if array.ndim}
    scalars = sorted(set(arrays) - set(counts))
    if scalars:
        raise _bad(
            f"array '{printable(scalars[0])}' of data {origin} is a scalar",
            "the first axis is the samples",
        )
    if not counts or 0 in counts.values():
        raise _bad(
            f"data {origin} holds no samples",
            "there are no arrays" if not counts else "an array is empty",
        )
    if len(set(counts.values())) > 1:
        shown = ", ".join(
            f"'{printable(name)}' has {count:,}" for name, count in list(counts.items())[:8]
        )
        raise _bad(f"arrays of data {origin} differ in their number of samples", shown)
    return Samples(arrays, next(iter(counts.values())), origin)


def _read_archive(stream: IO[bytes], origin: str, limits: Limits) -> dict[str, Array]:
    """Reads all arrays of an open .npz file, after its directory was found to fit the budget."""
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if total > limits.data_bytes or len(members) > _MAX_ARRAYS:
            raise LimitExceededError(
                f"data {origin} holds {len(members):,} arrays of {total:,} bytes once inflated",
                why=f"at most {_MAX_ARRAYS:,} arrays and {limits.data_bytes:,} bytes are allowed",
                hint="use fewer samples; a few hundred are enough",
            )
        arrays: dict[str, Array] = {}
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _bad(
                    f"data {origin} is compressed by method {member.compress_type}",
                    "numpy writes no such file",
                )
            name = member.filename.removesuffix(".npy")
            if name in arrays or name == member.filename:
                raise _bad(
                    f"data {origin} contains '{printable(member.filename)}'",
                    "an .npz file holds arrays (.npy) with different names",
                )
            with archive.open(member) as entry:
                arrays[name] = _read_array(entry, member.file_size, name, origin)
    return arrays


def _read_array(entry: IO[bytes], nbytes: int, name: str, origin: str) -> Array:
    """Reads one .npy member; its header is checked before memory for its values is taken."""
    try:
        shape, fortran_order, dtype = _HEADER_READERS[np.lib.format.read_magic(entry)](entry)
    except _HEADER_ERRORS as error:
        raise _bad(
            f"array '{printable(name)}' of data {origin} is damaged", str(error)[:200]
        ) from error
    _check_dtype(dtype, name, origin)
    count = prod(shape)
    if any(dim < 0 for dim in shape) or count * dtype.itemsize + entry.tell() != nbytes:
        raise _bad(
            f"array '{printable(name)}' of data {origin} is damaged",
            f"its header promises {printable(str(shape), 80)} values of {dtype}, its length is {nbytes:,} bytes",
        )
    array = np.empty(count, dtype)
    target = array.view(np.uint8).data if count else memoryview(b"")
    position = 0
    while position < len(target):
        piece = entry.read(min(1 << 20, len(target) - position))
        if not piece:
            raise EOFError(f"array '{printable(name)}' ends early")
        target[position : position + len(piece)] = piece
        position += len(piece)
    if entry.read(1):  # also makes zipfile compare the checksum
        raise EOFError(f"array '{printable(name)}' is longer than its directory entry")
    array = array.reshape(shape, order="F" if fortran_order else "C")
    return np.ascontiguousarray(array.astype(dtype.newbyteorder("="), copy=False))


def _check_dtype(dtype: np.dtype[Any], name: str, origin: str) -> None:
    """Accepts plain numbers and booleans only."""
    if dtype.hasobject:
        raise _bad(
            f"array '{printable(name)}' of data {origin} holds pickled Python objects",
            "unpickling runs code from the file, so it is never done",
            hint="save plain numeric arrays: numpy.savez(path, name=array)",
        )
    if dtype.kind not in _KINDS or dtype.itemsize > 8:
        raise _bad(
            f"array '{printable(name)}' of data {origin} has the type {printable(str(dtype), 40)}",
            "inputs are booleans, integers or floats of at most 64 bits",
            hint="convert it first, for example with .astype(numpy.float32)",
        )


def _bad(
    what: str, why: str, hint: str = "see the format in docs/guarantees.md"
) -> InvalidDataError:
    """The error for unusable data."""
    return InvalidDataError(what, why=why, hint=hint)
