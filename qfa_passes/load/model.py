"""Reads a model from a path, bytes or a ModelProto into a shell and a weight store, checking everything on the way."""

import hashlib
from os import PathLike
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from onnx import ModelProto

from qfa_passes.core.model import LoadedModel
from qfa_passes.core.paths import absolute
from qfa_passes.core.printable import printable
from qfa_passes.core.weights import Blob, FileSlice, WeightSource, WeightStore
from qfa_passes.errors import InvalidModelError, LimitExceededError
from qfa_passes.load.external import ExternalFiles
from qfa_passes.load.limits import Limits
from qfa_passes.load.placement import copy_without_weights, place_tensors
from qfa_passes.load.sniff import describe, not_a_model
from qfa_passes.load.source import FileSource, MemorySource, open_file
from qfa_passes.load.structure import check_structure
from qfa_passes.load.wire import Scan, scan_model


def read_model(
    source: str | PathLike[str] | bytes | ModelProto,
    *,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
    allow_links_within: Path | None = None,
    base_dir: Path | None = None,
) -> LoadedModel:
    """Reads a model. Large tensors stay where they are; the object or files given are never changed.

    Args:
        source: Path of an .onnx file, its bytes, or a ModelProto.
        limits: Budgets; exceeding one is an error before memory is spent.
        allow_links_within: Accept data files behind links if the real file lies in this folder.
        base_dir: Where data files of bytes or a ModelProto lie. Without it, such a model may not refer to files:
            nothing is ever resolved against the current directory. Ignored for a path.

    Raises:
        UsageError: The file cannot be opened.
        UnsafePathError: The model refers to a file outside its folder or behind a link.
        InvalidModelError: No ONNX model, or one that contradicts itself.
        LimitExceededError: Larger or deeper than ``limits``.
        UnsupportedModelError: Valid, but newer than this installation understands.
    """
    store = WeightStore()
    path: Path | None = None
    places: dict[int, WeightSource]
    if isinstance(source, ModelProto):
        if not source.HasField("graph"):
            raise not_a_model("the given ModelProto", b"\0", "it contains no graph")
        check_structure(source, limits)
        shell, places = copy_without_weights(source)
    elif isinstance(source, bytes):
        scan = _scan(MemorySource(source), "the given bytes", limits)
        shell = _parse(scan, "the given bytes", source[:512])
        check_structure(shell, limits)
        places = {
            found.index: Blob(np.frombuffer(source, np.uint8, found.nbytes, found.offset))
            for found in scan.ranges
        }
    else:
        path = absolute(source)
        base_dir = path.parent
        where = f"'{printable(str(path))}'"
        with open_file(path, "model") as file:
            scan = _scan(file, where, limits)
            shell = _parse(scan, where, file.read(0, min(512, file.size)))
            file.check_unchanged()
            store.pin(path, file.identity)
        check_structure(shell, limits)
        places = {found.index: FileSlice(path, found.offset, found.nbytes) for found in scan.ranges}
    place_tensors(shell, store, places, ExternalFiles(base_dir, allow_links_within), limits)
    return LoadedModel(shell, store, path, _digest(shell, store))


def _scan(source: FileSource | MemorySource, where: str, limits: Limits) -> Scan:
    """Locates large initializers; names the real kind of a file that is no model."""
    try:
        return scan_model(source, limits)
    except InvalidModelError as error:
        head = source.read(0, min(512, source.size))
        if describe(head):
            raise not_a_model(where, head, "") from error
        raise InvalidModelError(f"{where}: {error.what}", why=error.why, hint=error.hint) from error


def _parse(scan: Scan, where: str, head: bytes) -> ModelProto:
    """Parses the shell; an empty, foreign or text file is named as such."""
    try:
        model = ModelProto.FromString(scan.shell)
    except DecodeError as error:
        if "MaxDepth" in str(error):
            raise LimitExceededError(
                f"{where} is nested too deep to be decoded",
                why="a protobuf file holds at most 33 levels of subgraphs",
                hint="no exporter writes this; do not trust the file",
            ) from error
        raise not_a_model(where, head, "it is truncated, damaged or of another kind") from error
    if not model.HasField("graph"):
        raise not_a_model(where, head, "it contains no graph")
    return model


def _digest(shell: ModelProto, store: WeightStore) -> str:
    """SHA-256 of the shell and of the lengths of its weights."""
    digest = hashlib.sha256(shell.SerializeToString(deterministic=True))
    for location, place in store:
        digest.update(f"{location}={place.nbytes};".encode())
    return digest.hexdigest()
