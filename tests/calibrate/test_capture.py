"""Values read out of a running model."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from qfa_passes.calibrate import capture
from qfa_passes.errors import RuntimeFailureError
from qfa_passes.load import read_model
from tests.reference.golden_graphs import parse


def model() -> ModelProto:
    return parse("""
        small (float[rows, 3] x, bool[rows] flags) => (float[rows, 2] y)
        <float[3, 2] w = {1, 2, 3, 4, 5, 6}, float unused = {7}>
        {
            product = MatMul (x, w)
            doubled = Add (product, product)
            y = Relu (doubled)
            turned = Not (flags)
        }""")


def feeds(rows: int) -> dict[str, np.ndarray]:
    x = np.random.default_rng(rows).standard_normal((rows, 3)).astype(np.float32)
    return {"x": x, "flags": np.arange(rows) % 2 == 0}


def test_inner_values_inputs_initializers_and_outputs() -> None:
    names = ["product", "x", "w", "y", "flags", "turned", "product"]
    runs = list(capture(read_model(model()), names, [feeds(4), feeds(2)]))
    assert [set(run) for run in runs] == [set(names)] * 2
    weight = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    for run, feed in zip(runs, (feeds(4), feeds(2)), strict=True):
        np.testing.assert_allclose(run["product"], feed["x"] @ weight, rtol=1e-5)
        np.testing.assert_allclose(run["y"], np.maximum(2 * run["product"], 0), rtol=1e-5)
        np.testing.assert_array_equal(run["x"], feed["x"])
        np.testing.assert_array_equal(run["w"], weight)
        np.testing.assert_array_equal(run["turned"], ~feed["flags"])


def test_runs_come_one_at_a_time() -> None:
    taken = []

    def source():
        for number in range(3):
            taken.append(number)
            yield feeds(2)

    runs = capture(read_model(model()), ["product"], source())
    assert taken == []
    next(runs)
    assert taken == [0]


def test_only_inputs_need_no_run_of_the_model() -> None:
    (run,) = capture(read_model(model()), ["x", "w"], [feeds(2)])
    assert set(run) == {"x", "w"}


def test_large_weight_in_a_file_is_captured(tmp_path: Path) -> None:
    proto = model()
    table = np.arange(3 * 5000, dtype=np.float32).reshape(3, 5000)
    proto.graph.initializer.append(numpy_helper.from_array(table, "table"))
    proto.graph.node.append(helper.make_node("MatMul", ["x", "table"], ["wide"]))
    proto.graph.output.append(helper.make_tensor_value_info("wide", 1, None))
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin")
    (run,) = capture(read_model(path), ["table", "wide"], [feeds(2)])
    np.testing.assert_array_equal(run["table"], table)


def test_the_model_is_not_changed() -> None:
    loaded = read_model(model())
    before = loaded.proto.SerializeToString(deterministic=True)
    list(capture(loaded, ["product"], [feeds(2)]))
    assert loaded.proto.SerializeToString(deterministic=True) == before


def test_input_that_does_not_fit_names_the_run() -> None:
    runs = capture(read_model(model()), ["product"], [feeds(2), {**feeds(2), "x": feeds(2)["x"].T}])
    next(runs)
    with pytest.raises(RuntimeFailureError, match=r"failed on run 1 \(x \(3, 2\), flags \(2,\)\)"):
        next(runs)
