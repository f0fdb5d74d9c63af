"""The same in, the same out: nothing the caller owns changes, and a second run finds nothing left to do."""

from pathlib import Path

import onnx
import pytest

from qfa_passes import api
from qfa_passes.core.dataset import DataSet
from tests.end_to_end.outcomes import TINY_LM, fused_count, statuses
from tests.reference.decoders import Decoder

DECODER = Decoder()
OPTIONS = [
    {"rotate": "none"},
    {"rotate": "hadamard"},
    {"rotate": "auto"},
    {"scale_mode": "static", "max_error": 1.0},
    {"stop_after": "rewrite"},
    {"stop_after": "normalize"},
]


def calibration() -> DataSet:
    return DataSet((DECODER.feeds(), DECODER.feeds(2, 20, seed=5)), "two inputs", digest="d" * 64)


def test_the_given_model_is_not_changed() -> None:
    model = DECODER.model()
    before = model.SerializeToString(deterministic=True)
    result = api.optimize(model)
    assert fused_count(result.model) == 2
    assert model.SerializeToString(deterministic=True) == before


def test_the_given_file_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(DECODER.model(), path)
    before = path.read_bytes()
    api.optimize(path, output=tmp_path / "out.onnx")
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model.onnx", "out.onnx"]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_two_runs_write_the_same_bytes(options: dict[str, str], tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        api.optimize(DECODER.model(), output=tmp_path / name, calibration=calibration(), **options)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("opset", [17, 23])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_optimized_model_is_left_as_it_is(options: dict[str, str], opset: int) -> None:
    once = api.optimize(Decoder(opset=opset).model(), calibration=calibration(), **options).model
    twice = api.optimize(once, calibration=calibration(), **options).model
    assert twice.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


def test_an_optimized_trained_model_is_left_as_it_is(tmp_path: Path) -> None:
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    api.optimize(TINY_LM, output=first)
    api.optimize(first, output=second)
    assert first.read_bytes() == second.read_bytes()


def test_the_qdq_graph_can_be_fused_later() -> None:
    """With static steps, which are then those of the model's own pairs, codes are the same and errors small."""
    marked = api.optimize(DECODER.model(), stop_after="rewrite").model
    later = api.optimize(marked, scale_mode="static", seed=77)
    assert statuses(later) == ["fused", "fused"]
    assert "QuantizeLinear" not in [node.op_type for node in later.model.graph.node]
    steps = [
        [
            float(onnx.numpy_helper.to_array(tensor))
            for tensor in model.graph.initializer
            if "_scale" in tensor.name
        ]
        for model in (marked, later.model)
    ]
    assert len(steps[0]) == 6
    assert sorted(steps[0]) == sorted(steps[1])


@pytest.mark.parametrize("rotate", ["none", "hadamard"])
def test_sites_left_out_can_be_fused_later(rotate: str) -> None:
    """One function body serves all nodes, so the later ones follow the earlier."""
    partly = api.optimize(DECODER.model(), rotate=rotate, exclude="attention_1")
    assert statuses(partly) == ["fused", "exempt"]
    whole = api.optimize(partly.model)
    assert statuses(whole) == ["fused"]
    assert fused_count(whole.model) == 2
    rotations = {
        attribute.s.decode()
        for node in whole.model.graph.node
        for attribute in node.attribute
        if attribute.name == "rotate"
    }
    assert rotations == {rotate}
    onnx.checker.check_model(whole.model, full_check=True)


def test_calibration_is_noted_once() -> None:
    once = api.optimize(DECODER.model(), calibration=calibration(), exclude="attention_1").model
    twice = api.optimize(once, calibration=calibration()).model
    notes = [entry.value for entry in twice.metadata_props]
    assert notes == ["d" * 64]
