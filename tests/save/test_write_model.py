"""Writing models: what is read back is what was there, byte for byte, every time (faults 82 to 85)."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from qfa_passes.core.model import LoadedModel
from qfa_passes.core.weights import Blob, WeightStore, hollow_tensor
from qfa_passes.errors import SaveError, UsageError
from qfa_passes.load import read_model
from qfa_passes.save import ExternalData, to_model_proto, write_model
from tests.load.refusals import refused
from tests.load.small_models import (
    chain,
    external_tensor,
    load_reference,
    two_layers,
    with_initializer,
)

MODES: tuple[ExternalData, ...] = ("auto", "always", "never")


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("mode", MODES)
def test_round_trip(tmp_path: Path, mode: ExternalData) -> None:
    """The onnx package, ONNX Runtime and our reader all see the model that went in; saving again gives its bytes."""
    proto = two_layers(width=64)
    before = proto.SerializeToString(deterministic=True)
    model = read_model(proto)
    saved = write_model(model, tmp_path / "m.onnx", external_data=mode)
    assert len(saved.paths) == (2 if mode == "always" else 1)
    assert set(tmp_path.iterdir()) == set(saved.paths)
    assert saved.nbytes == sum(path.stat().st_size for path in saved.paths)
    assert load_reference(tmp_path / "m.onnx") == proto
    onnx.checker.check_model(tmp_path / "m.onnx", full_check=True)
    again = read_model(tmp_path / "m.onnx")
    assert to_model_proto(again) == proto
    assert again.digest == model.digest
    x = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    w1, b1, w2 = (
        numpy_helper.to_array(tensor).astype(np.float64) for tensor in proto.graph.initializer
    )
    np.testing.assert_allclose(y, (x @ w1 + b1) @ w2, rtol=1e-4, atol=1e-4)
    first = snapshot(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    write_model(again, other / "m.onnx", external_data=mode)
    assert snapshot(other) == first
    write_model(model, other / "m.onnx", external_data=mode)
    assert snapshot(other) == first
    assert proto.SerializeToString(deterministic=True) == before


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sizes=st.lists(st.integers(0, 40), max_size=6),
    kinds=st.lists(
        st.sampled_from(["FLOAT", "INT64", "INT4", "FLOAT16", "STRING"]), min_size=6, max_size=6
    ),
    mode=st.sampled_from(MODES),
)
def test_any_mix_of_tensors(
    tmp_path: Path, sizes: list[int], kinds: list[str], mode: ExternalData
) -> None:
    """Large, small, empty, scalar, packed and string tensors; the caller's proto keeps its bytes."""
    draw = np.random.default_rng(len(sizes))
    tensors = []
    for index, (size, kind) in enumerate(zip(sizes, kinds, strict=False)):
        number = TensorProto.DataType.Value(kind)
        if kind == "STRING":
            tensors.append(helper.make_tensor(f"t{index}", number, [size], [b"s" * size] * size))
            continue
        array = draw.integers(-4, 4, (size, size)).astype(helper.tensor_dtype_to_np_dtype(number))
        tensors.append(numpy_helper.from_array(array, f"t{index}"))
    proto = chain([helper.make_node("Identity", ["x"], ["y"])], ["x"], ["y"], initializer=tensors)
    before = proto.SerializeToString(deterministic=True)
    write_model(read_model(proto), tmp_path / "m.onnx", external_data=mode)
    assert load_reference(tmp_path / "m.onnx") == proto
    assert to_model_proto(read_model(tmp_path / "m.onnx")) == proto
    assert proto.SerializeToString(deterministic=True) == before


def test_layout_of_the_data_file(tmp_path: Path) -> None:
    """Aligned, no overlap, equal tensors once, no gap at the end; the name follows the content."""
    draw = np.random.default_rng(1)
    arrays = [draw.standard_normal(n).astype(np.float32) for n in (300, 1024, 5000, 700)]
    tensors = [
        numpy_helper.from_array(array, f"a{i}")
        for i, array in enumerate([*arrays, arrays[2], arrays[0]])
    ]
    proto = chain([helper.make_node("Identity", ["x"], ["y"])], ["x"], ["y"], initializer=tensors)
    saved = write_model(read_model(proto), tmp_path / "m.onnx", external_data="always")
    shell = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    places = []
    for tensor in shell.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert list(entries) == ["location", "offset", "length"]
        assert entries["location"] == saved.paths[1].name
        places.append((int(entries["offset"]), int(entries["length"])))
    assert places[4] == places[2]
    assert places[5] == places[0]
    end = 0
    for offset, length in places[:4]:
        assert offset >= end
        assert offset % (4096 if length >= 4096 else 64) == 0
        end = offset + length
    assert saved.paths[1].stat().st_size == end
    assert load_reference(tmp_path / "m.onnx") == proto
    name = saved.paths[1].name
    arrays[0][0] += 1
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(arrays[0], "a0"))
    changed = write_model(read_model(proto), tmp_path / "m.onnx", external_data="always")
    assert changed.paths[1].name != name
    assert changed.stale == (saved.paths[1],)
    assert saved.paths[1].exists()


def test_an_old_copy_of_the_model_stays_valid(tmp_path: Path) -> None:
    """A copied .onnx still finds its data after the original name was saved anew."""
    write_model(read_model(two_layers(seed=1)), tmp_path / "m.onnx", external_data="always")
    (tmp_path / "copy.onnx").write_bytes((tmp_path / "m.onnx").read_bytes())
    write_model(read_model(two_layers(seed=2)), tmp_path / "m.onnx", external_data="always")
    assert load_reference(tmp_path / "copy.onnx") == two_layers(seed=1)
    assert load_reference(tmp_path / "m.onnx") == two_layers(seed=2)


def test_sharded_external_input(tmp_path: Path) -> None:
    """Weights that come from many files go to one."""
    proto = two_layers()
    onnx.save_model(
        proto,
        tmp_path / "m.onnx",
        save_as_external_data=True,
        all_tensors_to_one_file=False,
        size_threshold=0,
    )
    assert len(list(tmp_path.iterdir())) == 4
    (tmp_path / "out").mkdir()
    saved = write_model(
        read_model(tmp_path / "m.onnx"), tmp_path / "out" / "m.onnx", external_data="always"
    )
    assert len(saved.paths) == 2
    assert load_reference(saved.paths[0]) == two_layers()


def test_external_tensors_of_subgraphs(tmp_path: Path) -> None:
    """They come out where they fit: inside the file, or in the data file."""
    data = np.arange(1024, dtype=np.float32)
    (tmp_path / "w.data").write_bytes(data.tobytes())
    proto = chain(
        [helper.make_node("Constant", [], ["y"], value=external_tensor("w.data"))], [], ["y"]
    )
    (tmp_path / "in.onnx").write_bytes(proto.SerializeToString())
    model = read_model(tmp_path / "in.onnx")
    for mode in MODES:
        write_model(model, tmp_path / "out.onnx", external_data=mode)
        result = onnx.load(tmp_path / "out.onnx")
        np.testing.assert_array_equal(
            numpy_helper.to_array(result.graph.node[0].attribute[0].t), data
        )


def test_tensors_made_by_passes(tmp_path: Path) -> None:
    """A pass may add, share and drop hollow tensors."""
    store = WeightStore()
    array = np.arange(3000, dtype=np.float32)
    location = store.add(Blob(array.view(np.uint8)))
    store.add(Blob(b"never used" * 1000))
    model = chain([helper.make_node("Add", ["a", "b"], ["y"])], [], ["y"])
    model.graph.initializer.extend(
        hollow_tensor(name, TensorProto.FLOAT, (3000,), location) for name in ("a", "b")
    )
    loaded = LoadedModel(model, store, None, "")
    for mode in MODES:
        saved = write_model(loaded, tmp_path / f"{mode}.onnx", external_data=mode)
        result = load_reference(tmp_path / f"{mode}.onnx")
        for tensor in result.graph.initializer:
            np.testing.assert_array_equal(numpy_helper.to_array(tensor), array)
        assert saved.nbytes < (2 if mode == "always" else 3) * 12_000 + 1000


def test_input_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the model nor its data file, under any name for them."""
    write_model(read_model(two_layers()), tmp_path / "m.onnx", external_data="always")
    before = snapshot(tmp_path)
    model = read_model(tmp_path / "m.onnx")
    (data,) = tmp_path.glob("*.data")
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    for target in ("m.onnx", "./link/m.onnx", tmp_path / "link" / "m.onnx", data):
        with refused(UsageError, "is the input", exit_code=2):
            write_model(model, target)
    (tmp_path / "other.onnx").write_bytes(b"precious")
    with refused(UsageError, "is the input", exit_code=2):
        write_model(model, "other.onnx", source=tmp_path / "other.onnx")
    (tmp_path / "link").unlink()
    (tmp_path / "other.onnx").unlink()
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "kind", ["link", "dangling link", "folder", "fifo", "missing folder", "folder is a file"]
)
def test_targets_that_are_no_place_for_a_model(tmp_path: Path, kind: str) -> None:
    """Refused before anything is written."""
    target = tmp_path / "m.onnx"
    if kind == "link":
        (tmp_path / "real").write_bytes(b"precious")
        target.symlink_to("real")
    elif kind == "dangling link":
        target.symlink_to("nowhere")
    elif kind == "folder":
        target.mkdir()
    elif kind == "fifo":
        os.mkfifo(target)
    elif kind == "missing folder":
        target = tmp_path / "missing" / "m.onnx"
    else:
        (tmp_path / "file").write_bytes(b"precious")
        target = tmp_path / "file" / "m.onnx"
    names = sorted(path.name for path in tmp_path.iterdir())
    with refused(UsageError, "m.onnx", exit_code=2):
        write_model(read_model(two_layers()), target)
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for path in tmp_path.iterdir():
        if path.name in ("real", "file"):
            assert path.read_bytes() == b"precious"


def test_to_model_proto_beyond_two_gib(tmp_path: Path) -> None:
    """Told before memory is taken: the weights are a sparse file."""
    with (tmp_path / "w.data").open("wb") as file:
        file.truncate(3 << 30)
    path = tmp_path / "m.onnx"
    path.write_bytes(with_initializer(external_tensor("w.data", (3 << 28,))).SerializeToString())
    model = read_model(path)
    with refused(SaveError, "2 GiB", "3,221,2"):
        to_model_proto(model)
    with refused(SaveError, "2 GiB", "auto"):
        write_model(model, tmp_path / "out.onnx", external_data="never")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["m.onnx", "w.data"]


def save_often(path: Path, seed: int) -> None:
    """Saves the same model again and again."""
    model = read_model(two_layers(seed=seed))
    for _ in range(8):
        write_model(model, path, external_data="always")


def test_two_processes_save_under_one_name(tmp_path: Path) -> None:
    """At every moment the file is one of the two models, whole; no temporary file is left."""
    path = tmp_path / "m.onnx"
    write_model(read_model(two_layers(seed=1)), path, external_data="always")
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=save_often, args=(path, seed)) for seed in (1, 2)]
    for writer in writers:
        writer.start()
    wanted = [two_layers(seed=seed) for seed in (1, 2)]
    while any(writer.is_alive() for writer in writers):
        assert load_reference(path) in wanted
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert load_reference(path) in wanted
    assert not [item for item in tmp_path.iterdir() if item.name.endswith("tmp")]


def test_names_with_odd_characters(tmp_path: Path) -> None:
    """Spaces, other scripts, quotes and very long names."""
    for name in (
        "a b.onnx",
        "模型.onnx",
        "-x.onnx",
        "q'\".onnx",
        "n" * 200 + ".onnx",
        "😀" * 50 + ".onnx",
    ):
        write_model(read_model(two_layers()), tmp_path / name, external_data="always")
        assert load_reference(tmp_path / name) == two_layers()


def test_field_order_is_valid_protobuf(tmp_path: Path) -> None:
    """A model with everything set survives: functions, metadata, annotations, training info, unknown fields."""
    proto = two_layers()
    proto.producer_name, proto.domain, proto.doc_string = "p", "d", "doc"
    proto.metadata_props.add(key="k", value="v")
    proto.graph.doc_string = "graph doc"
    proto.graph.metadata_props.add(key="gk", value="gv")
    proto.graph.initializer[0].doc_string = "weights"
    proto.graph.initializer[0].metadata_props.add(key="tk", value="tv")
    proto.graph.quantization_annotation.add(tensor_name="w1")
    proto.functions.append(
        helper.make_function(
            "local", "f", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], proto.opset_import
        )
    )
    raw = proto.SerializeToString() + bytes([0xFA, 0x3F, 3]) + b"new"
    write_model(read_model(raw), tmp_path / "m.onnx")
    assert load_reference(tmp_path / "m.onnx") == ModelProto.FromString(raw)
    write_model(read_model(raw), tmp_path / "m.onnx", external_data="always")
    assert load_reference(tmp_path / "m.onnx") == ModelProto.FromString(raw)


def test_unknown_mode(tmp_path: Path) -> None:
    """A misspelt mode is not taken for another."""
    with refused(UsageError, "allways", "always", exit_code=2):
        write_model(read_model(two_layers()), tmp_path / "m.onnx", external_data="allways")  # type: ignore[arg-type]
