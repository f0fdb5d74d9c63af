"""Checks every tensor of a parsed model and moves the large ones to the weight store."""

from google.protobuf.message import Message
from onnx import ModelProto, TensorProto

from qfa_passes.core.printable import printable
from qfa_passes.core.walk import all_tensors
from qfa_passes.core.weights import INLINE_LIMIT, Blob, WeightSource, WeightStore, hollow_out
from qfa_passes.errors import InvalidModelError, LimitExceededError
from qfa_passes.load.external import ExternalFiles
from qfa_passes.load.limits import Limits
from qfa_passes.load.tensors import (
    check_length,
    check_tensor,
    expected_bytes,
    has_values,
    inline_bytes,
    to_raw,
)


def copy_without_weights(model: ModelProto) -> tuple[ModelProto, dict[int, WeightSource]]:
    """Copies a caller's ModelProto except the large raw data of its main graph's initializers.

    Returns:
        The copy, and the bytes left out by the index of their initializer.
    """
    shell = ModelProto()
    places: dict[int, WeightSource] = {}
    for field, value in model.ListFields():
        if field.name != "graph":
            _copy_field(shell, field.name, value)
    shell.graph.SetInParent()
    for field, value in model.graph.ListFields():
        if field.name != "initializer":
            _copy_field(shell.graph, field.name, value)
    for index, tensor in enumerate(model.graph.initializer):
        copy = shell.graph.initializer.add()
        raw = tensor.raw_data if tensor.HasField("raw_data") else b""
        if len(raw) <= INLINE_LIMIT:
            copy.CopyFrom(tensor)
            continue
        places[index] = Blob(raw)
        for field, value in tensor.ListFields():
            if field.name != "raw_data":
                _copy_field(copy, field.name, value)
    return shell, places


def place_tensors(
    shell: ModelProto,
    store: WeightStore,
    places: dict[int, WeightSource],
    files: ExternalFiles,
    limits: Limits,
) -> None:
    """Checks all tensors and completes the shell in place: large ones hollow, small ones inline, none on a file.

    Args:
        shell: The parsed model, without the raw data of ``places``.
        store: Receives the places of large tensors.
        places: Bytes that were left out, by the index of their initializer in the main graph.
        files: Resolves external data.
        limits: ``weight_bytes`` bounds the sum of all tensors.
    """
    initializers = len(shell.graph.initializer)
    total = 0
    try:
        for index, (where, tensor) in enumerate(all_tensors(shell)):
            if not isinstance(tensor.name, str):
                raise InvalidModelError(
                    f"a tensor name in {where} is no text: '{printable(tensor.name)}'"
                )
            place = places.get(index)
            external = tensor.data_location == TensorProto.EXTERNAL
            if place is None and not external:
                check_tensor(tensor, where)
                nbytes = inline_bytes(tensor)
            else:
                if has_values(tensor) or (place is not None and external):
                    raise InvalidModelError(
                        f"tensor '{printable(tensor.name)}' in {where} has its values in two places",
                        hint="export the model again; programs disagree on which of them counts",
                    )
                nbytes = expected_bytes(tensor, where)
            total += nbytes
            if total > limits.weight_bytes:
                raise LimitExceededError(
                    f"the tensors of the model add up to more than {limits.weight_bytes:,} bytes",
                    why=f"the limit was crossed at '{printable(tensor.name)}' in {where}",
                    hint="if the model really is this large, raise Limits.weight_bytes",
                )
            if place is not None:
                check_length(tensor, where, place.nbytes)
            elif external:
                place = files.locate(tensor, nbytes)
                if nbytes <= INLINE_LIMIT:
                    raw = files.read(tensor, place)
                    tensor.ClearField("data_location")
                    del tensor.external_data[:]
                    tensor.raw_data = raw
                    continue
            elif (
                index < initializers
                and nbytes > INLINE_LIMIT
                and tensor.data_type != TensorProto.STRING
            ):
                place = Blob(to_raw(tensor))
            if place is not None:
                hollow_out(tensor, store.add(place))
    finally:
        files.close()
    for source in files.files.values():
        store.pin(source.path, source.identity)


def _copy_field(target: Message, name: str, value: object) -> None:
    """Copies one set field of a message, whatever its kind."""
    if isinstance(value, Message):
        getattr(target, name).CopyFrom(value)
    elif hasattr(value, "extend"):
        getattr(target, name).extend(value)
    else:
        setattr(target, name, value)
