"""Tensors whose bytes contradict their type or dimensions (faults 14 and 15)."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from qfa_passes.errors import InvalidModelError, LimitExceededError, QfaError, UnsupportedModelError
from qfa_passes.load import read_model
from qfa_passes.load.tensors import BITS
from tests.load.refusals import refused
from tests.load.small_models import chain, external_tensor, with_initializer

TYPES = [
    number for name, number in TensorProto.DataType.items() if name not in ("UNDEFINED", "STRING")
]


def raw_tensor(kind: int, dims: list[int], nbytes: int) -> TensorProto:
    """A tensor of zeros."""
    return TensorProto(name="w", data_type=kind, dims=dims, raw_data=bytes(nbytes))


def test_every_type_is_known() -> None:
    """A new element type of onnx shows up here first."""
    assert set(BITS) == set(TYPES)


@pytest.mark.parametrize("kind", TYPES, ids=TensorProto.DataType.Name)
@pytest.mark.parametrize("count", [0, 1, 3, 5, 8, 2001])
def test_length_of_raw_data(kind: int, count: int) -> None:
    """Exactly the bytes that the onnx package writes are accepted; int4 packs an odd count into a half byte more."""
    array = np.zeros(count, helper.tensor_dtype_to_np_dtype(kind))
    nbytes = len(numpy_helper.from_array(array).raw_data)
    read_model(with_initializer(raw_tensor(kind, [count], nbytes)))
    for wrong in {nbytes + 1, max(nbytes - 1, 0), 0, 2 * nbytes} - {nbytes}:
        for proto in (with_initializer(raw_tensor(kind, [count], wrong)),):
            with refused(InvalidModelError, "'w'"):
                read_model(proto)
            with refused(InvalidModelError, "'w'"):
                read_model(proto.SerializeToString())


@pytest.mark.parametrize("kind", [*TYPES, TensorProto.STRING], ids=TensorProto.DataType.Name)
def test_typed_fields(kind: int) -> None:
    """Typed values as helper.make_tensor writes them are accepted, one more or less is not."""
    values: list[object] = [b"a"] * 7 if kind == TensorProto.STRING else [1] * 7
    tensor = helper.make_tensor("w", kind, [7], values)
    read_model(with_initializer(tensor))
    field = helper.tensor_dtype_to_field(kind)
    getattr(tensor, field).append(getattr(tensor, field)[0])
    with refused(InvalidModelError, "'w'", field):
        read_model(with_initializer(tensor))


@pytest.mark.parametrize(
    "dims",
    [
        [-1],
        [2, -3],
        [-2, -2],
        [2**62],
        [2**32, 2**32],
        [2**63 - 1, 2],
        [2**21] * 10,
        [0, 2**62, 4],
        [2**31] * 5,
    ],
)
@pytest.mark.parametrize("place", ["raw", "typed", "external", "attribute"])
def test_impossible_dimensions(dims: list[int], place: str) -> None:
    """Products are exact, whatever their size; a zero does not hide an overflow."""
    tensor = raw_tensor(TensorProto.FLOAT, dims, 4)
    if place == "typed":
        tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, float_data=[1.0])
    elif place == "external":
        tensor = external_tensor("w.data", tuple(dims))
    proto = with_initializer(tensor)
    if place == "attribute":
        proto = chain([helper.make_node("Constant", [], ["y"], value=tensor)], [], ["y"])
    with pytest.raises((InvalidModelError, LimitExceededError)):
        read_model(proto)


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(TYPES),
    dims=st.lists(st.integers(-2, 40) | st.integers(-(2**63), 2**63 - 1), max_size=5),
    nbytes=st.integers(0, 3000),
)
def test_accepted_means_numpy_can_read_it(kind: int, dims: list[int], nbytes: int) -> None:
    """Nothing that gets through the checks fails later in the onnx package."""
    tensor = raw_tensor(kind, dims, nbytes)
    try:
        read_model(with_initializer(tensor))
    except QfaError:
        return
    assert numpy_helper.to_array(tensor).shape == tuple(dims)


@pytest.mark.parametrize(
    "field", ["both", "string", "segment", "unknown", "undefined", "wrong field", "string raw"]
)
def test_contradictions(field: str) -> None:
    """One tensor, one place for its values, one known type."""
    tensor = raw_tensor(TensorProto.FLOAT, [2], 8)
    kind: type[QfaError] = InvalidModelError
    if field == "both":
        tensor.float_data.extend([1, 2])
    elif field == "string":
        tensor.string_data.append(b"x")
    elif field == "segment":
        tensor.segment.begin = 1
        kind = UnsupportedModelError
    elif field == "unknown":
        tensor.data_type = 99
    elif field == "undefined":
        tensor.data_type = 0
    elif field == "wrong field":
        tensor.ClearField("raw_data")
        tensor.int64_data.extend([1, 2])
    else:
        tensor.data_type = TensorProto.STRING
    with refused(kind, "'w'", exit_code=kind.exit_code):
        read_model(with_initializer(tensor))


@pytest.mark.parametrize("nbytes", [8, 4096])
def test_values_inside_and_outside(nbytes: int) -> None:
    """External and inline values together are refused: programs disagree on which count."""
    tensor = external_tensor("w.data", (nbytes // 4,))
    tensor.raw_data = bytes(nbytes)
    for source in (with_initializer(tensor), with_initializer(tensor).SerializeToString()):
        with refused(InvalidModelError, "'w'", "two places"):
            read_model(source)


def test_raw_data_twice() -> None:
    """The last of two counts in protobuf, so a reader that takes the first would be fooled."""
    tensor = raw_tensor(TensorProto.UINT8, [2000], 2000).SerializeToString()
    raw = tensor[tensor.rindex(b"\x4a\xd0\x0f") :]
    assert len(raw) == 2003
    body = tensor + raw
    graph = b"\x2a" + bytes([len(body) & 0x7F | 0x80, len(body) >> 7]) + body
    model = b"\x08\x0a" + b"\x3a" + bytes([len(graph) & 0x7F | 0x80, len(graph) >> 7]) + graph
    with refused(InvalidModelError, "twice"):
        read_model(model)


def test_fp8_and_int4_values_survive() -> None:
    """Narrow types come through bit by bit."""
    codes = np.arange(256, dtype=np.uint8).repeat(8)
    tensor = numpy_helper.from_array(codes.view(ml_dtypes.float8_e4m3fn), "w")
    model = read_model(with_initializer(tensor).SerializeToString())
    assert bytes(model.weights.view(model.proto.graph.initializer[0])) == codes.tobytes()
