"""The three artefacts of models of every opset: float, Q/DQ and fused, with the library and without."""

from dataclasses import dataclass

import pytest
from onnx import ModelProto

from qfa_passes import api
from tests.end_to_end.outcomes import (
    TINY_LM,
    Array,
    assert_valid,
    float_outputs,
    fused_count,
    operators,
    outputs,
    statuses,
    tokens,
    worst,
)
from tests.operator.sessions import LEVELS
from tests.reference.decoders import IR_VERSIONS, Decoder

DECODERS = {
    "opset 17": Decoder(),
    "opset 18, encoder": Decoder(opset=18, causal=False, kv_heads=4),
    "opset 21, one kv head": Decoder(opset=21, kv_heads=1),
    "opset 23, Attention": Decoder(opset=23),
    "opset 23, Attention, encoder": Decoder(opset=23, causal=False, kv_heads=4),
    "opset 17, float16": Decoder(dtype="float16"),
    "opset 21, float16": Decoder(dtype="float16", opset=21),
    "opset 17, 12 channels": Decoder(channels=12),
}


@dataclass(frozen=True)
class Case:
    """One model with its inputs (two lengths) and what it computes."""

    model: ModelProto
    sites: int
    feeds: list[dict[str, Array]]
    wanted: list[list[Array]]


@pytest.fixture(scope="module", params=[*DECODERS, "tiny_lm"])
def case(request: pytest.FixtureRequest) -> Case:
    if request.param == "tiny_lm":
        import onnx

        model, sites = onnx.load(TINY_LM), 4
        feeds = [tokens(150), tokens(1), tokens(33, batch=3)]
    else:
        decoder = DECODERS[request.param]
        model, sites = decoder.model(), decoder.layers
        feeds = [decoder.feeds(), decoder.feeds(1, 1), decoder.feeds(3, 33)]
    return Case(model, sites, feeds, [float_outputs(model, feed) for feed in feeds])


def test_normalized_graph_computes_the_same(case: Case) -> None:
    result = api.optimize(case.model, stop_after="normalize")
    assert_valid(result.model)
    assert not {"QuantizeLinear", "QuantFlashAttention"} & set(operators(result.model))
    for feed, wanted in zip(case.feeds, case.wanted, strict=True):
        for level in LEVELS:
            assert worst(outputs(result.model, feed, library=False, level=level), wanted) < 1e-6


def test_qdq_graph_runs_in_stock_runtime_at_every_level(case: Case) -> None:
    result = api.optimize(case.model, stop_after="rewrite")
    assert_valid(result.model)
    assert operators(result.model).count("QuantizeLinear") == 3 * case.sites
    assert operators(result.model).count("DequantizeLinear") == 3 * case.sites
    assert {entry.domain for entry in result.model.opset_import} <= {"", "ai.onnx.ml"}
    for feed, wanted in zip(case.feeds, case.wanted, strict=True):
        plain = outputs(result.model, feed, library=False, level=LEVELS[0])
        assert worst(plain, wanted) < 3e-3  # static steps, found on random inputs
        for level in LEVELS[1:]:
            # Codes at the border of two steps may fall either way.
            assert worst(outputs(result.model, feed, library=False, level=level), plain) < 1e-3


def test_fused_graph_with_and_without_the_library(case: Case) -> None:
    result = api.optimize(case.model)
    assert statuses(result) == ["fused"] * case.sites
    assert fused_count(result.model) == case.sites
    assert not {"Softmax", "Attention", "QuantizeLinear"} & set(operators(result.model))
    assert_valid(result.model)
    for feed, wanted in zip(case.feeds, case.wanted, strict=True):
        fused = outputs(result.model, feed)
        assert worst(fused, wanted) < 5e-4
        for level in LEVELS:
            assert worst(outputs(result.model, feed, level=level), fused) < 1e-6
            body = outputs(result.model, feed, library=False, level=level)
            assert worst(body, fused) < 1e-4


@pytest.mark.parametrize("opset", sorted(IR_VERSIONS))
def test_every_opset(opset: int) -> None:
    """Models below opset 15 are raised to 17; the others keep theirs."""
    decoder = Decoder(opset=opset)
    model = decoder.model()
    result = api.optimize(model, rotate="none")
    assert statuses(result) == ["fused", "fused"]
    versions = {entry.domain: entry.version for entry in result.model.opset_import}
    assert versions == {"": 17 if opset < 15 else opset, "ai.qfa": 1}
    feed = decoder.feeds(2, 20)
    wanted = float_outputs(model, feed)
    for library in (True, False):
        assert worst(outputs(result.model, feed, library=library), wanted) < 5e-4


@pytest.mark.parametrize("opset", [17, 23])
@pytest.mark.parametrize("batch", [2, "batch"])
@pytest.mark.parametrize("length", [70, "sequence"])
def test_fixed_and_open_sizes(batch: int | str, length: int | str, opset: int) -> None:
    decoder = Decoder(opset=opset)
    model = decoder.model()
    for value in (model.graph.input[0], model.graph.output[0]):
        for dim, size in zip(value.type.tensor_type.shape.dim, (batch, length), strict=False):
            if isinstance(size, int):
                dim.dim_value = size
    result = api.optimize(model, rotate="none")
    assert statuses(result) == ["fused", "fused"]
    feed = decoder.feeds(2, 70)
    assert worst(outputs(result.model, feed), float_outputs(model, feed)) < 5e-4
