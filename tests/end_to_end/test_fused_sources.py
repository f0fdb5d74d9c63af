"""Models that hold fused attention or products in other spellings: fused as any other, or left exactly as they were."""

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from qfa_passes import api
from tests.end_to_end.outcomes import (
    Array,
    assert_valid,
    float_outputs,
    fused_count,
    operators,
    outputs,
    worst,
)
from tests.sources.nodes import floats
from tests.sources.test_grouped import DECODE_IN_BUFFER, PROMPT, RAGGED_DECODE, Grouped
from tests.sources.test_merged import block as merged
from tests.sources.test_multi_head import block as multi_head

BOUND = 5e-4

EINSUM = """
    s = Einsum <equation = "bqhd,bkhd->bhqk"> (q, k) x = Mul(s, scale) p = Softmax <axis = -1> (x)
    o = Einsum <equation = "bhqk,bkhd->bqhd"> (p, v)
"""


def einsum(extra: str = "", outputs: str = "float[B,S,3,16] o") -> ModelProto:
    inputs = "float[B,S,3,16] q, float[B,T,3,16] k, float[B,T,3,16] v"
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => ({outputs})'
        f" <float scale = {{0.25}}> {{ {EINSUM} {extra} }}"
    )
    for number, node in enumerate(proto.graph.node):
        node.name = f"n{number}"
    return proto


def einsum_feeds() -> dict[str, Array]:
    shapes = {"q": (2, 5, 3, 16), "k": (2, 70, 3, 16), "v": (2, 70, 3, 16)}
    return {name: floats(*shape, seed=len(name)) for name, shape in shapes.items()}


def test_einsum() -> None:
    result = api.optimize(einsum())
    assert fused_count(result.model) == 1 and "Einsum" not in operators(result.model)
    feeds = einsum_feeds()
    assert worst(outputs(result.model, feeds), float_outputs(einsum(), feeds)) < BOUND


def test_what_is_excluded_stays_as_it_was() -> None:
    result = api.optimize(einsum(), exclude="n2")
    assert operators(result.model) == operators(einsum())
    (site,) = result.report.sites
    assert "excluded" in site.reason


def test_what_is_refused_stays_as_it_was_with_its_first_reason() -> None:
    proto = einsum("w = Relu(p)", "float[B,S,3,16] o, float w")
    result = api.optimize(proto)
    assert operators(result.model) == operators(proto)
    (site,) = result.report.sites
    assert "softmax output" in site.reason, site.reason


@pytest.mark.parametrize("name", ("merged", "multi_head", "prompt", "decode", "buffer"))
def test_fused_attention(name: str) -> None:
    cases = {
        "merged": lambda: merged(attrs={"unidirectional": 1}),
        "multi_head": lambda: multi_head(past=True, bias=floats(3 * 3 * 8)),
        "prompt": lambda: Grouped(packed=True, rotary=True).node(PROMPT),
        "decode": lambda: Grouped(packed=True, rotary=True).node(RAGGED_DECODE),
        "buffer": lambda: Grouped().node(DECODE_IN_BUFFER),
    }
    case = cases[name]()
    source, feeds = case.model(), case.runtime_feeds()
    data = api.DataSet((feeds,), "the feeds of the test") if name != "merged" else None
    result = api.optimize(source, calibration=data)
    assert fused_count(result.model) == 1
    assert case.op not in operators(result.model)
    assert_valid(result.model)
    assert worst(outputs(result.model, feeds), float_outputs(source, feeds)) < BOUND
    again = api.optimize(result.model, verify="off")
    assert operators(again.model) == operators(result.model)


def test_fused_attention_that_is_excluded_stays() -> None:
    source = merged().model()
    result = api.optimize(source, exclude=".*")
    assert operators(result.model) == ["Attention"]
    feeds = merged().runtime_feeds()
    for left, right in zip(
        float_outputs(source, feeds), float_outputs(result.model, feeds), strict=True
    ):
        np.testing.assert_array_equal(left, right)
