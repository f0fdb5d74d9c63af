"""Masks that follow lengths: read as attributes only where they say exactly what these say."""

import pytest
from onnx import ModelProto

from qfa_passes.core.origin import Origin
from tests.match.blocks import Block, site_of

INPUTS = (
    "float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,T,6] v, int64[B] n, int64[A] m, int32[B] small"
)
CONSTANTS = "int64 zero = {0}, int64 one = {1}, int64[3] axes = {1, 2, 3}, int64[1] last = {1}, float low = {-inf}"
PLACES = """
    qs = Shape(q) two = Add(one, one) s = Gather(qs, two) ks = Shape(k) t = Gather(ks, two)
    keys = Range(zero, t, one) steps = Range(zero, s, one) row = Unsqueeze(steps, last)
"""


def block(keep: str, more: str = "past = Sub(n, s) column = Unsqueeze(past, axes)") -> Block:
    return Block(
        inputs=INPUTS,
        constants=CONSTANTS,
        before=PLACES + more + " own = Add(column, row) " + keep,
        mask="y = Where(keep, x, low)",
    )


def written_out(part: Block) -> ModelProto:
    """The block as if a GroupQueryAttention had been written out: there n is at most T."""
    model = part.model()
    origin = Origin("attention", "com.microsoft::GroupQueryAttention")
    for number, node in enumerate(model.graph.node):
        node.name = origin.step(f"step{number}")
    return model


def test_lengths_of_a_model_may_exceed_t() -> None:
    """The operator would count places from T then, so the mask stays a value."""
    mask = site_of(block("keep = LessOrEqual(keys, own)").model()).mask
    assert not mask.causal and mask.kv_length is None and len(mask.terms) == 1


@pytest.mark.parametrize(
    "keep",
    (
        "keep = LessOrEqual(keys, own)",
        "keep = GreaterOrEqual(own, keys)",
        "next = Add(own, one) keep = Less(keys, next)",
        "next = Add(one, own) keep = Greater(next, keys)",
    ),
)
def test_triangle(keep: str) -> None:
    mask = site_of(written_out(block(keep))).mask
    assert mask.causal and mask.queries_at_end and mask.kv_length == "n" and not mask.terms
    assert (mask.left_window, mask.right_window) == (-1, -1)


@pytest.mark.parametrize("width", (1, 3))
def test_window(width: int) -> None:
    keep = f"""
        c = Constant <value_int = {width}> () edge = Sub(own, c) near = Greater(keys, edge)
        before = LessOrEqual(keys, own) keep = And(before, near)
    """
    mask = site_of(written_out(block(keep))).mask
    assert mask.causal and mask.kv_length == "n" and mask.left_window == width - 1
    assert not mask.terms


@pytest.mark.parametrize(
    "keep,more",
    (
        ("keep = Less(keys, own)", "past = Sub(n, s) column = Unsqueeze(past, axes)"),
        (
            "next = Add(own, one) keep = LessOrEqual(keys, next)",
            "past = Sub(n, s) column = Unsqueeze(past, axes)",
        ),
        ("keep = LessOrEqual(keys, own)", "column = Unsqueeze(n, axes)"),
        ("keep = LessOrEqual(keys, own)", "past = Sub(n, t) column = Unsqueeze(past, axes)"),
        ("keep = LessOrEqual(keys, own)", "past = Sub(s, n) column = Unsqueeze(past, axes)"),
        ("keep = LessOrEqual(keys, own)", "past = Sub(m, s) column = Unsqueeze(past, axes)"),
        ("keep = GreaterOrEqual(keys, own)", "past = Sub(n, s) column = Unsqueeze(past, axes)"),
        (
            "minus = Sub(column, row) keep = LessOrEqual(keys, minus)",
            "past = Sub(n, s) column = Unsqueeze(past, axes)",
        ),
    ),
)
def test_others_stay_values(keep: str, more: str) -> None:
    mask = site_of(written_out(block(keep, more))).mask
    assert not mask.causal and mask.kv_length is None and len(mask.terms) == 1


def test_a_window_over_other_lengths_stays_a_value() -> None:
    keep = """
        other = Unsqueeze(wide, axes) begin = Sub(other, row) near = Greater(keys, begin)
        before = LessOrEqual(keys, own) keep = And(before, near)
    """
    more = "wide = Cast <to = 7> (small) past = Sub(n, s) column = Unsqueeze(past, axes)"
    mask = site_of(written_out(block(keep, more))).mask
    assert mask.causal and mask.kv_length == "n" and mask.left_window == -1
    assert len(mask.terms) == 1
