"""Reading models: the shell and the store together hold exactly what the onnx package reads."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from qfa_passes.core.model import LoadedModel
from qfa_passes.core.walk import all_tensors
from qfa_passes.core.weights import INLINE_LIMIT, Blob, FileSlice, is_hollow
from qfa_passes.errors import InvalidModelError, LimitExceededError, UsageError
from qfa_passes.load import Limits, read_model
from qfa_passes.save import write_model
from tests.load.refusals import refused
from tests.load.small_models import chain, external_tensor, two_layers, with_initializer


def filled(model: LoadedModel) -> ModelProto:
    """Puts the weights back with nothing but the store's own reading."""
    proto = ModelProto.FromString(model.proto.SerializeToString())
    for _, tensor in all_tensors(proto):
        if is_hollow(tensor):
            raw = bytes(model.weights.view(tensor))
            assert raw == b"".join(model.weights.chunks(model.weights.source(tensor), 1000))
            tensor.ClearField("data_location")
            del tensor.external_data[:]
            tensor.raw_data = raw
    return proto


def test_path_bytes_and_proto_give_the_same_model(tmp_path: Path) -> None:
    """The three kinds of source differ only in where the weights are."""
    proto = two_layers()
    before = proto.SerializeToString(deterministic=True)
    path = tmp_path / "m.onnx"
    path.write_bytes(before)
    loaded = [read_model(path), read_model(str(path)), read_model(before), read_model(proto)]
    for model in loaded:
        assert filled(model) == proto
        assert [is_hollow(t) for t in model.proto.graph.initializer] == [True, False, True]
        assert model.digest == loaded[0].digest
        assert model.proto.ByteSize() < 1000
    assert proto.SerializeToString(deterministic=True) == before
    assert loaded[0].path == path
    assert loaded[3].path is None


def test_inline_weights_are_slices_of_the_file(tmp_path: Path) -> None:
    """Large inline tensors are located, not read."""
    proto = two_layers()
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    model = read_model(path)
    for tensor, original in zip(
        model.proto.graph.initializer, proto.graph.initializer, strict=True
    ):
        if is_hollow(tensor):
            source = model.weights.source(tensor)
            assert isinstance(source, FileSlice)
            start = source.offset
            assert path.read_bytes()[start : start + source.nbytes] == original.raw_data


def test_external_data(tmp_path: Path) -> None:
    """Large external tensors stay in their file, small ones come inline; the folder need not be current."""
    proto = two_layers()
    path = tmp_path / "m.onnx"
    onnx.save_model(proto, path, save_as_external_data=True, location="sub.data", size_threshold=0)
    model = read_model(path)
    w1, b1, _ = model.proto.graph.initializer
    assert model.weights.source(w1).path == tmp_path / "sub.data"  # type: ignore[union-attr]
    assert not is_hollow(b1)
    assert not b1.external_data
    assert filled(model) == two_layers()


def test_large_typed_fields_become_raw() -> None:
    """Values in float_data and its like are converted once."""
    values = list(range(INLINE_LIMIT))
    for kind in (
        TensorProto.FLOAT,
        TensorProto.INT64,
        TensorProto.FLOAT16,
        TensorProto.INT4,
        TensorProto.BOOL,
    ):
        small = (
            [value % 2 for value in values]
            if kind in (TensorProto.BOOL, TensorProto.INT4)
            else values
        )
        tensor = helper.make_tensor("w", kind, [len(small)], small)
        if kind == TensorProto.INT4:
            tensor = helper.make_tensor("w", kind, [4 * len(small) - 1], (4 * small)[:-1])
        expected = numpy_helper.to_array(tensor)
        model = read_model(with_initializer(tensor))
        (shell,) = model.proto.graph.initializer
        source = model.weights.source(shell) if is_hollow(shell) else None
        if kind == TensorProto.BOOL:
            assert source is None  # 1024 bytes fit inline
        else:
            assert isinstance(source, Blob)
        np.testing.assert_array_equal(
            numpy_helper.to_array(filled(model).graph.initializer[0]), expected
        )


def test_external_tensors_in_subgraphs_and_attributes(tmp_path: Path) -> None:
    """Wherever a tensor is, no reference to a file is left in the shell."""
    data = np.arange(2048, dtype=np.float32)
    (tmp_path / "w.data").write_bytes(data.tobytes())
    big = external_tensor("w.data", (1024,), offset=4096)
    big.name = "big"
    small = external_tensor("w.data", (4,), offset=16)
    branch = helper.make_graph(
        [helper.make_node("Identity", ["big"], ["out"])],
        "branch",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [big],
    )
    nodes = [
        helper.make_node("Constant", [], ["c"], value=small),
        helper.make_node("If", ["cond"], ["y"], then_branch=branch, else_branch=branch),
    ]
    proto = chain(nodes, ["cond"], ["y", "c"])
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    full = filled(read_model(path))
    tensors = {tensor.name: numpy_helper.to_array(tensor) for _, tensor in all_tensors(full)}
    np.testing.assert_array_equal(tensors["big"], data[1024:])
    np.testing.assert_array_equal(tensors["w"], data[4:8])
    assert not any(tensor.external_data for _, tensor in all_tensors(full))


def test_functions_with_subgraphs(tmp_path: Path) -> None:
    """Graphs inside of functions do not disturb which bytes belong to which initializer of the main graph."""
    inner = numpy_helper.from_array(np.full(1000, 7, np.float32), "inner")
    value = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    branch = helper.make_graph(
        [helper.make_node("Identity", ["inner"], ["out"])], "b", [], [value], [inner]
    )
    choice = helper.make_node("If", ["c"], ["o"], then_branch=branch, else_branch=branch)
    proto = two_layers()
    proto.functions.append(
        helper.make_function("local", "f", ["c"], ["o"], [choice], proto.opset_import)
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    for source in (path, proto, proto.SerializeToString()):
        assert filled(read_model(source)) == proto


def test_proto_with_unloaded_external_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative location of a ModelProto is never looked for in the current folder."""
    data = np.arange(1024, dtype=np.float32)
    (tmp_path / "w.data").write_bytes(data.tobytes())
    monkeypatch.chdir(tmp_path)
    proto = with_initializer(external_tensor("w.data"))
    with refused(InvalidModelError, "w.data", "memory"):
        read_model(proto)
    with refused(InvalidModelError, "w.data", "memory"):
        read_model(proto.SerializeToString())
    model = read_model(proto, base_dir=tmp_path)
    np.testing.assert_array_equal(numpy_helper.to_array(filled(model).graph.initializer[0]), data)
    assert proto == with_initializer(external_tensor("w.data"))


def test_a_file_called_like_our_own_scheme_is_not_trusted(tmp_path: Path) -> None:
    """A location ``qfa:0`` in a file does not reach into the store."""
    for proto in (with_initializer(external_tensor("qfa:0", (1024,))), two_layers()):
        if len(proto.graph.initializer) == 3:
            proto.graph.initializer.append(external_tensor("qfa:0", (1024,)))
        path = tmp_path / "m.onnx"
        path.write_bytes(proto.SerializeToString())
        with refused(InvalidModelError, "qfa:0"):
            read_model(path)


def test_unreadable_paths(tmp_path: Path) -> None:
    """Missing files, folders and pipes are the user's mistake; a pipe does not hang."""
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing.onnx", "", "pipe", "bad\0name", "x" * 5000):
        with refused(UsageError, exit_code=2):
            read_model(str(tmp_path / name))


@pytest.mark.parametrize(
    "name", ["mit Leer zeichen.onnx", "模型.onnx", "-o.onnx", "~.onnx", "a" * 200]
)
def test_odd_but_valid_paths(tmp_path: Path, name: str) -> None:
    """Names need no escaping."""
    (tmp_path / name).write_bytes(two_layers().SerializeToString())
    assert filled(read_model(tmp_path / name)) == two_layers()


def test_relative_path_survives_a_change_of_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are found after chdir."""
    (tmp_path / "m.onnx").write_bytes(two_layers().SerializeToString())
    monkeypatch.chdir(tmp_path)
    model = read_model("m.onnx")
    monkeypatch.chdir("/")
    assert filled(model) == two_layers()


def test_current_folder_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Absolute paths work, relative ones are explained."""
    (tmp_path / "m.onnx").write_bytes(two_layers().SerializeToString())
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    model = read_model(tmp_path / "m.onnx")
    write_model(model, tmp_path / "o.onnx")
    with refused(UsageError, "current folder", exit_code=2):
        read_model("m.onnx")
    with refused(UsageError, "current folder", exit_code=2):
        write_model(model, "o.onnx")


def test_budgets() -> None:
    """Limits are checked before memory is spent."""
    proto = two_layers()
    with refused(LimitExceededError, "w2", "8,000"):
        read_model(proto, limits=Limits(weight_bytes=8000))
    big = numpy_helper.from_array(np.zeros(1000, np.float32))
    constant = chain([helper.make_node("Constant", [], ["y"], value=big)], [], ["y"])
    with refused(LimitExceededError, "4,0"):
        read_model(constant.SerializeToString(), limits=Limits(shell_bytes=2000))


def test_unknown_fields_survive() -> None:
    """Fields of a newer ONNX that this one does not know are kept, in the model and in hollow tensors."""
    raw = (
        two_layers().SerializeToString() + bytes([0xFA, 0x3F, 3]) + b"new"
    )  # field 1023 of ModelProto
    assert b"\xfa\x3f\x03new" in read_model(raw).proto.SerializeToString()


def test_training_graphs_may_hold_external_data_too(tmp_path: Path) -> None:
    """Every graph of a model is searched."""
    (tmp_path / "w.data").write_bytes(bytes(4096))
    proto = two_layers()
    proto.training_info.add().algorithm.initializer.append(external_tensor("w.data"))
    with refused(InvalidModelError, "w.data", "memory"):
        read_model(proto)
    loaded = read_model(proto, base_dir=tmp_path)
    assert filled(loaded).training_info[0].algorithm.initializer[0].raw_data == bytes(4096)
