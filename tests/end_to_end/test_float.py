"""--format float: attention is fused and nothing is quantized, so that the model stays what it was."""

from pathlib import Path

import onnx
import pytest

from qfa_passes import api
from qfa_passes.__main__ import main
from qfa_passes.core.formats import AttentionFormat
from qfa_passes.plan.plan_file import write_plan
from tests.end_to_end.outcomes import (
    TINY_LM,
    assert_valid,
    float_outputs,
    fused_count,
    operators,
    outputs,
    statuses,
    tokens,
    worst,
)
from tests.end_to_end.test_options import node_words
from tests.reference.decoders import Decoder

DECODER = Decoder()
BOUND = 1e-9


@pytest.mark.parametrize("word", ["float", "fp16"])
def test_float_model_stays_what_it_was(word: str) -> None:
    model, feed = DECODER.model(), DECODER.feeds()
    result = api.optimize(model, format=word)
    assert_valid(result.model)
    assert statuses(result) == ["fused", "fused"]
    assert [site.bound for site in result.report.sites] == [BOUND, BOUND]
    assert node_words(result.model, "compute_format") == {"float"}
    assert node_words(result.model, "rotate") == {"none"}
    wanted = float_outputs(model, feed)
    for library in (True, False):
        assert worst(outputs(result.model, feed, library=library), wanted) < BOUND


def test_real_text_stays_what_it_was() -> None:
    result = api.optimize(TINY_LM, format="float")
    assert set(statuses(result)) == {"fused"}
    feed = tokens(128, batch=2)
    assert worst(outputs(result.model, feed), float_outputs(onnx.load(TINY_LM), feed)) < BOUND


def test_no_pairs_are_left() -> None:
    marked = api.optimize(DECODER.model(), format="float", stop_after="rewrite")
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(operators(marked.model))
    assert marked.report.sites[0].reason == "stopped after rewrite"


def test_attention_alone_may_be_asked_for() -> None:
    result = api.optimize(DECODER.model(), attention="float")
    assert node_words(result.model, "compute_format") == {"float"}


def test_plan_is_written_and_obeyed(tmp_path: Path) -> None:
    first = api.optimize(DECODER.model(), format="float")
    assert {site.format for site in first.plan.sites} == {AttentionFormat.FLOAT}
    write_plan(first.plan, tmp_path / "plan.toml")
    again = api.optimize(DECODER.model(), plan=tmp_path / "plan.toml")
    assert node_words(again.model, "compute_format") == {"float"}
    assert again.model.SerializeToString() == first.model.SerializeToString()


@pytest.mark.parametrize("idle", [{"rotate": "hadamard"}, {"scale_mode": "static"}], ids=str)
def test_requests_without_effect_are_told(idle: dict[str, str]) -> None:
    result = api.optimize(DECODER.model(), format="float", verify="off", **idle)
    (name,) = idle
    assert f"{name} without effect: nothing is quantized in float" in result.report.warnings
    assert node_words(result.model, "scale_mode") == {"dynamic"}
    assert node_words(result.model, "rotate") == {"none"}


def test_float16_is_held_against_its_own_bound() -> None:
    model = Decoder(dtype="float16").model()
    result = api.optimize(model, format="float")
    assert fused_count(result.model) == 2
    for site in result.report.sites:
        assert site.nmse is not None and site.nmse <= site.bound == 5e-5


@pytest.mark.parametrize("word", ["float", "fp16"])
def test_command_line(tmp_path: Path, word: str) -> None:
    onnx.save(DECODER.model(), tmp_path / "model.onnx")
    target = tmp_path / "out.onnx"
    arguments = ["optimize", str(tmp_path / "model.onnx"), "-o", str(target), "--format", word]
    assert main([*arguments, "--quiet"]) == 0
    assert node_words(onnx.load(target), "compute_format") == {"float"}


def test_a_model_that_is_partly_fused_keeps_its_format() -> None:
    model, feed = DECODER.model(), DECODER.feeds()
    first = api.optimize(model, format="float", exclude="1")
    assert sorted(statuses(first)) == ["exempt", "fused"]
    second = api.optimize(first.model, format="float")
    assert fused_count(second.model) == 2
    assert worst(outputs(second.model, feed), float_outputs(model, feed)) < BOUND
