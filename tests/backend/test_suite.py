"""Every attention model of the ONNX backend suite: fused and right, or refused with the right reason."""

import pytest

import qfa_passes
from qfa_passes.core.site import AttentionSite, Refusal
from tests.backend.page import asks_for_scores, page
from tests.backend.suite import (
    EXPANDED,
    PAGE,
    cases,
    check_float,
    error,
    found,
    fused_nodes,
    listed,
    optimized,
    run,
)

LISTED = listed()
FUSED = [name for name, outcome in LISTED.items() if outcome.startswith("fused")]
REFUSED = [name for name in LISTED if name not in FUSED]
BOUND = 5e-4
"""Normalized mean squared error of int8 attention, as for every other model."""


def test_the_page_is_up_to_date() -> None:
    """`python -m tests.backend.page` writes it."""
    assert PAGE.read_text() == page()


def test_the_page_lists_the_suite() -> None:
    assert sorted(LISTED) == sorted(cases())
    assert (len(FUSED), len(REFUSED)) == (150, 36)
    assert all(asks_for_scores(name) for name in REFUSED)


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_asks_for_the_scores_is_refused(name: str) -> None:
    refusal = found(name)
    assert isinstance(refusal, Refusal)
    words = ("asks for the score matrix", "score matrix", "softmax output")
    assert any(word in refusal.reason for word in words)
    assert "qk_matmul_output" in refusal.reason
    assert "output_attentions=False" in refusal.hint


@pytest.mark.parametrize("name", FUSED)
def test_the_operator_and_its_expanded_form_are_one_block(name: str) -> None:
    site = found(name)
    assert isinstance(site, AttentionSite)
    other = found(name.removesuffix(EXPANDED))
    assert isinstance(other, AttentionSite)
    assert _facts(site) == _facts(other)
    assert site.scale == pytest.approx(other.scale, rel=0.01)  # of bfloat16 roots


def _facts(site: AttentionSite) -> tuple[object, ...]:
    heads = (site.num_heads, site.kv_num_heads, site.qk_channels, site.v_channels)
    return (*heads, site.softcap, site.dtype)


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("library", [True, False], ids=["kernel", "body"])
def test_float(name: str, library: bool) -> None:
    model = optimized(name, "float")
    assert fused_nodes(model) == 1
    left = {node.op_type for node in model.graph.node}
    assert not left & {"Softmax", "Attention", "MatMul"}
    check_float(cases()[name], run(cases()[name], model, library=library))


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("library", [True, False], ids=["kernel", "body"])
def test_int8(name: str, library: bool) -> None:
    model = optimized(name, "int8")
    assert fused_nodes(model) == 1
    assert error(cases()[name], run(cases()[name], model, library=library)) <= BOUND


VERIFIED = (
    "test_attention_4d_fp16_expanded",
    "test_attention_3d_causal_bf16",
    "test_attention_4d_diff_heads_mask4d_padded_kv",
    "test_attention_4d_causal_nonpad_batch_prefill_expanded",
    "test_attention_local_window_with_past",
    "test_attention_bidirectional_window_expanded",
)
"""Half precision, and what ONNX Runtime cannot run: bfloat16, short masks, opset 25."""


@pytest.mark.parametrize("name", VERIFIED)
@pytest.mark.parametrize("format", ["float", "int8"])
def test_default_verification_lets_them_pass(name: str, format: str) -> None:
    assert fused_nodes(qfa_passes.optimize(cases()[name].model, format=format).model) == 1
