"""Writes models: streamed, atomic, reproducible."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Final, Literal, get_args

from onnx import ModelProto

from qfa_passes.core.model import LoadedModel
from qfa_passes.core.paths import absolute
from qfa_passes.core.printable import printable
from qfa_passes.core.weights import FileSlice
from qfa_passes.core.wire_format import PROTOBUF_LIMIT
from qfa_passes.errors import SaveError, UsageError
from qfa_passes.save.commit import (
    Draft,
    commit_lock,
    draft,
    put_in_place,
    remove_leftovers,
    same_content,
)
from qfa_passes.save.datafile import CHUNK, hollow_tensors, write_data
from qfa_passes.save.serialize import fill, serialize_inline, serialized

ExternalData = Literal["auto", "always", "never"]


@dataclass(frozen=True, slots=True)
class SavedFiles:
    """What a save left on disk.

    Attributes:
        paths: The model, then its data file if it has one.
        nbytes: Their bytes together.
        stale: Data files of earlier saves under the same name. The new model does not use them; they are never deleted
            here, because a copy of the old model may.
    """

    paths: tuple[Path, ...]
    nbytes: int
    stale: tuple[Path, ...] = ()


def write_model(
    model: LoadedModel,
    path: str | PathLike[str],
    *,
    external_data: ExternalData = "auto",
    source: Path | None = None,
) -> SavedFiles:
    """Saves a model. Afterwards the complete new files are there, or everything is as before.

    Weights are copied in chunks of 1 MiB. Saving the same model twice gives the same bytes.

    Args:
        model: What to save; not changed.
        path: The .onnx file. Its folder must exist.
        external_data: ``auto`` keeps the weights in the file while it stays below 2 GiB; ``always`` and ``never``
            decide. The data file is called ``NAME.HASH.data`` after its content, so a model saved before stays valid.
        source: A file that must not be overwritten, besides those that ``model`` reads from.

    Raises:
        UsageError: ``path`` is the input, a link or no file name, or an option is unknown.
        SaveError: The files could not be written; nothing was left behind.
    """
    if external_data not in get_args(ExternalData):
        raise UsageError(
            f"external_data is '{printable(str(external_data))}'",
            hint=f"choose one of: {', '.join(get_args(ExternalData))}",
        )
    target = absolute(path)
    with _told(target):
        _check_target(target, model, source)
        inline = None if external_data == "always" else serialize_inline(model)
        if inline is not None and inline.nbytes > PROTOBUF_LIMIT:
            if external_data == "never":
                raise SaveError(
                    f"the model needs {inline.nbytes:,} bytes in one file",
                    why="an ONNX file holds at most 2 GiB",
                    hint="use --external-data auto",
                )
            inline = None
        remove_leftovers(target.parent, target.name)
        if inline is None:
            return _write_external(model, target)
        with draft(target.parent, target.name) as file:
            for chunk in inline.chunks(model.weights, CHUNK):
                file.stream.write(chunk)
            file.sync()
            put_in_place(file, target)
        return SavedFiles((target,), inline.nbytes, _stale(target, None))


def to_model_proto(model: LoadedModel) -> ModelProto:
    """Returns the model with all weights inside, independent of any file.

    Raises:
        SaveError: It would exceed what protobuf can hold.
    """
    nbytes = serialize_inline(model).nbytes
    if nbytes > PROTOBUF_LIMIT:
        raise SaveError(
            f"the model needs {nbytes:,} bytes in memory",
            why="a ModelProto with its weights inside holds at most 2 GiB",
            hint="save it to a path instead; large weights then go to a data file",
        )
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    for tensor in hollow_tensors(proto):
        fill(tensor, model.weights)
    return proto


def _write_external(model: LoadedModel, target: Path) -> SavedFiles:
    """Writes data file and model; the data is in place and durable before a model refers to it."""
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    tensors = hollow_tensors(proto)
    with draft(target.parent, target.name) as data, draft(target.parent, target.name) as file:
        written = write_data(tensors, model.weights, data)
        data_path = target.with_name(f"{target.name}.{written.content_hash[:16]}.data")
        for tensor, extent in zip(tensors, written.extents, strict=True):
            del tensor.external_data[:]
            tensor.external_data.add(key="location", value=data_path.name)
            tensor.external_data.add(key="offset", value=str(extent.offset))
            tensor.external_data.add(key="length", value=str(extent.nbytes))
        shell = serialized(proto)
        if len(shell) > PROTOBUF_LIMIT:
            raise SaveError(
                f"the model needs {len(shell):,} bytes besides its external data",
                why="an ONNX file holds at most 2 GiB",
                hint="keep large tensors in initializers, not in Constant nodes",
            )
        file.stream.write(shell)
        file.sync()
        if not tensors:
            put_in_place(file, target)
            return SavedFiles((target,), len(shell), _stale(target, None))
        data.sync()
        _put_both(data, data_path, file, target)
    return SavedFiles((target, data_path), len(shell) + written.nbytes, _stale(target, data_path))


def _put_both(data: Draft, data_path: Path, file: Draft, target: Path) -> None:
    """Puts data and then model in place; takes the data back if the model cannot follow.

    Under a lock: another writer of the same content must not come to rely on data that is taken back.
    """
    with commit_lock(target.parent):
        if same_content(data.path, data_path):
            # Left as it is for those who have it open: for them, a replaced file would be a changed one.
            put_in_place(file, target)
            return
        existed = os.path.lexists(data_path)
        put_in_place(data, data_path)
        try:
            put_in_place(file, target)
        except BaseException:
            if not existed:
                with suppress(OSError):
                    data_path.unlink()
            raise


def _check_target(target: Path, model: LoadedModel, source: Path | None) -> None:
    """Refuses targets that would destroy the input or surprise the user."""
    shown = printable(str(target))
    if target.is_symlink():
        raise UsageError(
            f"output '{shown}' is a symbolic link",
            why="replacing it would leave the file behind it unchanged",
            hint=f"give the real path: {printable(os.path.realpath(target))}",
        )
    if target.exists() and not target.is_file():
        raise UsageError(
            f"output '{shown}' is not a regular file", hint="give a file name ending in .onnx"
        )
    if not target.parent.is_dir():
        raise UsageError(
            f"the folder of output '{shown}' does not exist",
            hint=f"mkdir -p '{printable(str(target.parent))}'",
        )
    inputs = {place.path for _, place in model.weights if isinstance(place, FileSlice)}
    inputs.update(path for path in (model.path, source) if path is not None)
    for path in inputs:
        with suppress(OSError):
            if target.samefile(path):
                raise UsageError(
                    f"output '{shown}' is the input '{printable(str(path))}'",
                    why="a model is never written over itself",
                    hint="choose another name for the output",
                )


def _stale(target: Path, current: Path | None) -> tuple[Path, ...]:
    """Finds data files of earlier saves of this name."""
    pattern = re.compile(re.escape(target.name) + r"\.[0-9a-f]{16}\.data")
    found: list[Path] = []
    with suppress(OSError):
        found = [p for p in target.parent.iterdir() if pattern.fullmatch(p.name) and p != current]
    return tuple(sorted(found))


_HINTS: Final = {
    errno.ENOSPC: "free some space or save elsewhere",
    errno.EDQUOT: "free some of your quota or save elsewhere",
    errno.EFBIG: "the file size limit (ulimit -f) or the file system is too small",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "the file system is read-only; save elsewhere",
    errno.ENAMETOOLONG: "choose a shorter name",
}


@contextmanager
def _told(target: Path) -> Iterator[None]:
    """Turns failures of the system into errors that say what is safe."""
    try:
        yield
    except OSError as error:
        raise SaveError(
            f"could not write '{printable(str(target))}'",
            why=f"{error.strerror or error}; what was there before is intact, and nothing is left half written",
            hint=_HINTS.get(error.errno or 0, "check the folder and the disk"),
        ) from error
