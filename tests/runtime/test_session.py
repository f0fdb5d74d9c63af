"""Sessions of loaded models: weights from files, from memory and inline; failures explained."""

import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from qfa_passes.core.model import LoadedModel
from qfa_passes.core.weights import Blob, FileIdentity, FileSlice, WeightStore, hollow_tensor
from qfa_passes.errors import InvalidModelError, LibraryError, RuntimeFailureError
from qfa_passes.runtime.library import ENVIRONMENT_VARIABLE
from qfa_passes.runtime.session import create_session, explain_failure
from tests.operator.sessions import one_node, qkv

ROWS, COLUMNS = 700, 500
WEIGHT = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float32)
INPUT = np.random.default_rng(1).standard_normal((3, ROWS)).astype(np.float32)


def product_model(tensors: list[TensorProto], store: WeightStore) -> LoadedModel:
    """Returns ``output = input @ w0 + w1 ...``, where every further weight is cast to float."""
    nodes = [helper.make_node("MatMul", ["input", tensors[0].name], ["y0"])]
    for index, tensor in enumerate(tensors[1:]):
        nodes.append(helper.make_node("Cast", [tensor.name], [f"c{index}"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Add", [f"y{index}", f"c{index}"], [f"y{index + 1}"]))
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", ROWS])],
        [helper.make_tensor_value_info(f"y{len(tensors) - 1}", TensorProto.FLOAT, None)],
        tensors,
    )
    return loaded(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), store
    )


def loaded(proto: ModelProto, store: WeightStore | None = None) -> LoadedModel:
    return LoadedModel(proto, store or WeightStore(), None, "")


def run(model: LoadedModel, **options: Any) -> Any:
    return create_session(model, **options).run(None, {"input": INPUT})[0]


@pytest.mark.parametrize("prepack", [True, False])
@pytest.mark.parametrize("optimization", ["none", "basic", "extended", "all"])
@pytest.mark.parametrize("offset", [0, 13, 4096])
def test_weights_stay_in_their_file(
    offset: int, optimization: Any, prepack: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "a folder with spaces"
    folder.mkdir()
    path = folder / "weights.bin"
    path.write_bytes(b"x" * offset + WEIGHT.tobytes())
    store = WeightStore()
    tensor = hollow_tensor(
        "w", TensorProto.FLOAT, WEIGHT.shape, store.add(FileSlice(path, offset, WEIGHT.nbytes))
    )
    model = product_model([tensor], store)
    before = model.proto.SerializeToString()
    output = run(model, optimization=optimization, prepack=prepack, threads=1)
    np.testing.assert_allclose(output, INPUT @ WEIGHT, rtol=1e-3, atol=1e-4)
    assert model.proto.SerializeToString() == before


def test_files_in_several_folders_and_blobs_together(tmp_path: Path) -> None:
    store, tensors = WeightStore(), []
    for index, name in enumerate(("one/w.bin", "two/deep/w.bin")):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_bytes((WEIGHT if index == 0 else WEIGHT[:1]).tobytes())
        dims = WEIGHT.shape if index == 0 else (1, COLUMNS)
        location = store.add(FileSlice(path, 0, path.stat().st_size))
        tensors.append(hollow_tensor(f"w{index}", TensorProto.FLOAT, dims, location))
    big = np.random.default_rng(2).standard_normal((900, COLUMNS)).astype(np.float32)
    small = big[:1]
    for name, array in (("big", big), ("small", small)):
        location = store.add(Blob(array.tobytes()))
        tensors.append(hollow_tensor(name, TensorProto.FLOAT, array.shape, location))
    model = product_model(tensors, store)
    output = create_session(model).run(None, {"input": INPUT[:1]})[0]
    expected = INPUT[:1] @ WEIGHT + WEIGHT[:1] + big + small
    np.testing.assert_allclose(output, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("element_type", "dtype"),
    [
        (TensorProto.FLOAT16, np.float16),
        (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
        (TensorProto.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn),
        (TensorProto.INT8, np.int8),
        (TensorProto.INT64, np.int64),
        (TensorProto.UINT4, ml_dtypes.uint4),
    ],
)
def test_blobs_of_every_kind(element_type: int, dtype: Any) -> None:
    """Large enough that they are not written into the proto, but for the packed type."""
    rows = 2600
    values = (np.arange(rows * COLUMNS) % 13).reshape(rows, COLUMNS)
    tensor = numpy_helper.from_array(values.astype(dtype), "w1")
    assert tensor.data_type == element_type
    store = WeightStore()
    first = hollow_tensor("w0", TensorProto.FLOAT, WEIGHT.shape, store.add(Blob(WEIGHT.tobytes())))
    second = hollow_tensor("w1", element_type, values.shape, store.add(Blob(tensor.raw_data)))
    model = product_model([first, second], store)
    output = create_session(model).run(None, {"input": INPUT[:1]})[0]
    np.testing.assert_allclose(output, INPUT[:1] @ WEIGHT + values, rtol=1e-3, atol=1e-3)


def test_hollow_tensors_inside_subgraphs_and_constants() -> None:
    store = WeightStore()
    branch_value = hollow_tensor("w", TensorProto.FLOAT, (4,), store.add(Blob(b"\0\0\x80\x3f" * 4)))
    constant = hollow_tensor("", TensorProto.FLOAT, (4,), store.add(Blob(b"\0\0\0\x40" * 4)))
    result = helper.make_tensor_value_info("r", TensorProto.FLOAT, [4])
    then_branch = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["r"])], "then", [], [result], [branch_value]
    )
    else_branch = helper.make_graph(
        [helper.make_node("Constant", [], ["r"], value=constant)], "else", [], [result]
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=then_branch, else_branch=else_branch)],
        "branches",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
    )
    opsets = [helper.make_opsetid("", 17)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = create_session(loaded(proto, store))
    for flag, expected in ((True, 1.0), (False, 2.0)):
        np.testing.assert_array_equal(session.run(None, {"c": np.array(flag)})[0], [expected] * 4)


def test_file_that_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(WEIGHT.tobytes())
    store = WeightStore()
    tensor = hollow_tensor(
        "w", TensorProto.FLOAT, WEIGHT.shape, store.add(FileSlice(path, 0, WEIGHT.nbytes))
    )
    store.pin(path, FileIdentity.of(path.stat()))
    path.write_bytes(WEIGHT.tobytes() + b"more")
    with pytest.raises(InvalidModelError, match="changed"):
        create_session(product_model([tensor], store))


def test_path(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    inputs = qkv()
    onnx.save(one_node(inputs), path)
    assert create_session(path).run(None, inputs)[0].shape == (1, 4, 5, 16)


def test_threads_are_set() -> None:
    session = create_session(loaded(one_node(qkv())), threads=3)
    assert session.get_session_options().intra_op_num_threads == 3


def test_operator_without_library_says_what_to_do() -> None:
    with pytest.raises(RuntimeFailureError, match="is not a registered function/op") as caught:
        create_session(loaded(one_node(qkv())), use_library=False)
    assert "register_custom_ops_library(qfa_passes.get_library_path())" in str(caught.value)


def test_models_without_the_operator_need_no_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "none.so"))
    store = WeightStore()
    tensor = hollow_tensor("w", TensorProto.FLOAT, WEIGHT.shape, store.add(Blob(WEIGHT.tobytes())))
    assert run(product_model([tensor], store)).shape == (3, COLUMNS)
    with pytest.raises(LibraryError):
        create_session(loaded(one_node(qkv())))


def test_missing_file() -> None:
    with pytest.raises(RuntimeFailureError, match=r"does not load 'nowhere\.onnx'"):
        create_session("nowhere.onnx")


def test_hint_for_a_library_registered_twice() -> None:
    error = explain_failure("ONNX Runtime failed", RuntimeError("Domain already set in registry"))
    assert "twice" in error.hint


@pytest.mark.parametrize(
    ("version", "part"), [(None, "cannot be imported"), ("1.19.2", "1.19.2 is too old")]
)
def test_onnxruntime_missing_or_old(
    version: str | None, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if version is None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    else:
        monkeypatch.setattr("onnxruntime.__version__", version)
    with pytest.raises(RuntimeFailureError, match=part) as caught:
        create_session("model.onnx")
    assert "pip install" in caught.value.hint
