"""With the library the kernel runs, without it the body that the model carries; nodes of one model may differ."""

from typing import Any

import numpy as np
import pytest
from onnx import FunctionProto, checker, helper

from qfa_passes.core import opspec
from qfa_passes.quant.attention import Masking, attention_float64
from tests.operator.sessions import LEVELS, one_node, qkv, run
from tests.reference.attention_cases import nmse
from tests.reference.attention_models import Site, build_model

FLOAT_BOUND = 5e-4
BODY_BOUND = 1e-4
MASK = np.array([True, True, False, True, True, False, True])


def two_sites(dtype: Any) -> list[Site]:
    """Two nodes that differ in heads, scale, causality and in the optional inputs that they have."""
    bias = np.random.default_rng(3).standard_normal((4, 5, 7)).astype(np.float32)
    return [
        Site({**qkv(dtype=dtype), "attn_mask": MASK}, 0.25, True),
        Site({**qkv(heads=6, kv_heads=6, dtype=dtype)}, 0.5, False),
        Site({**qkv(dtype=dtype), "attn_bias": bias}, 0.125, False),
    ]


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("level", LEVELS)
def test_nodes_with_different_attributes(level: Any, dtype: Any, opset: int) -> None:
    sites = two_sites(dtype)
    model, feeds = build_model(sites, opset)
    checker.check_model(model, full_check=True)
    by_kernel = run(model, feeds, level=level)
    by_body = run(model, feeds, level=level, library=False)
    for site, kernel, body in zip(sites, by_kernel, by_body, strict=True):
        arrays = [site.inputs[name] for name in ("query", "key", "value")]
        masking = Masking(
            causal=site.is_causal,
            mask=site.inputs.get("attn_mask"),
            bias=site.inputs.get("attn_bias"),
        )
        expected = attention_float64(*arrays, scale=site.scale, masking=masking)
        assert kernel.dtype == body.dtype == dtype
        assert nmse(kernel, expected) <= FLOAT_BOUND
        assert nmse(body, expected) <= FLOAT_BOUND
        assert nmse(kernel, body) <= BODY_BOUND


def telltale_body() -> FunctionProto:
    """A body that returns the query: whoever ran is plain to see."""
    return helper.make_function(
        opspec.DOMAIN,
        opspec.OP_TYPE,
        [spec.name for spec in opspec.INPUTS if spec.required],
        ["output"],
        [helper.make_node("Identity", ["query"], ["output"])],
        [helper.make_opsetid("", 17)],
        attributes=[attribute.name for attribute in opspec.ATTRIBUTES],
    )


@pytest.mark.parametrize("level", LEVELS)
def test_the_kernel_wins_over_the_body(level: Any) -> None:
    inputs = qkv()
    model = one_node(inputs, functions=[telltale_body()])
    (by_body,) = run(model, inputs, level=level, library=False)
    np.testing.assert_array_equal(by_body, inputs["query"])
    (by_kernel,) = run(model, inputs, level=level)
    assert nmse(by_kernel, attention_float64(*inputs.values(), scale=0.25)) <= FLOAT_BOUND


def test_neither_body_nor_library() -> None:
    inputs = qkv()
    with pytest.raises(Exception, match="is not a registered function/op"):
        run(one_node(inputs), inputs, library=False)
