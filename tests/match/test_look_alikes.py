"""Blocks that read like attention node by node and compute something else; each stays as it is."""

from dataclasses import replace

import pytest

from qfa_passes.core.site import AttentionSite, MaskKind
from tests.match.blocks import Block, find, refusal_of, site_of

SELF = "float[B,4,S,8] q, float[B,4,S,8] k, float[B,4,S,6] v"
TURNED = "float[B,4,S,8] q, float[B,4,S,8] k, float[B,4,6,S] v"

SINK_SHAPE = """
sh = Shape <start = 0, end = 1> (q)
rows = Shape <start = 2, end = 3> (q)
target = Concat <axis = 0> (sh, four, rows, one)
"""
SINK_NUMBERS = "int64[1] four = {4}, int64[1] one = {1}, int64[1] zero = {0}, int64[1] last = {-1}"


def test_softmax_over_a_new_axis_of_one() -> None:
    """Its weights are all 1."""
    block = Block(
        constants="int64[1] four = {4}",
        mask="y = Unsqueeze(x, four)",
        weights="w = Squeeze(p, four)",
    )
    assert "not the keys" in refusal_of(block.model()).reason


def test_maximum_over_queries() -> None:
    """Taking away the maximum changes no weight only along the axis of the softmax."""
    block = Block(
        inputs=SELF,
        keys="qt = Transpose <perm = [0, 1, 3, 2]> (q)",
        scores="x = MatMul(k, qt)",
        mask="h = ReduceMax <axes = [-1]> (x) d = Sub(x, h) y = Transpose <perm = [0, 1, 3, 2]> (d)",
    )
    assert "maximum" in refusal_of(block.model()).reason


def test_maximum_taken_away_before_a_cap() -> None:
    """A tanh sees the shift that a softmax does not see."""
    block = Block(
        constants="float c = {2.0}",
        mask="h = ReduceMax <axes = [-1]> (x) d = Sub(x, h) a = Div(d, c) t = Tanh(a) y = Mul(t, c)",
    )
    assert "maximum" in refusal_of(block.model()).reason


def _with_sink(column: str, scores: str, sink: str) -> Block:
    return Block(
        constants=f"{sink}, {SINK_NUMBERS}",
        before=SINK_SHAPE + column,
        mask=f"col = Expand(sinks, target) {scores}",
        softmax="pp = Softmax <axis = -1> (y)",
        weights="w = Slice(pp, zero, last, last)",
    )


def test_maximum_taken_away_beside_a_sink() -> None:
    """The sink is not shifted with the scores."""
    block = _with_sink(
        "sinks = Identity(given)",
        "h = ReduceMax <axes = [-1]> (x) d = Sub(x, h) y = Concat <axis = -1> (d, col)",
        "float[1,4,1,1] given = {0.5, 1.5, -0.5, 2.0}",
    )
    assert "sink" in refusal_of(block.model()).reason


def test_transposed_table_of_sinks() -> None:
    """The sink is read where its heads stand in order."""
    block = _with_sink(
        "turned = Transpose <perm = [1, 0]> (given) shape = Constant <value_ints = [1, 4, 1, 1]> ()"
        " sinks = Reshape(turned, shape)",
        "y = Concat <axis = -1> (x, col)",
        "float[2,2] given = {0.5, 1.5, -0.5, 2.0}",
    )
    assert site_of(block.model()).sink != "given"


def test_slice_of_transposed_weights_beside_a_sink() -> None:
    """It drops a query and keeps the sink."""
    block = _with_sink(
        "sinks = Identity(given)",
        "y = Concat <axis = -1> (x, col)",
        "float[1,4,1,1] given = {0.5, 1.5, -0.5, 2.0}",
    )
    block = replace(
        block,
        inputs="float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,6,U] v",
        weights="pt = Transpose <perm = [0, 1, 3, 2]> (pp) w = Slice(pt, zero, last, last)",
        product="o = MatMul(v, w)",
        outputs="float[B,4,6,R] o",
    )
    assert "sink" in refusal_of(block.model()).reason


def test_weights_zeroed_after_a_transpose() -> None:
    """The condition then stands over keys and queries, not over queries and keys."""
    block = Block(
        inputs=f"{TURNED}, bool[S,S] m",
        constants="float low = {-3.4e38}, float none = {0.0}",
        mask="y = Where(m, x, low)",
        weights="pt = Transpose <perm = [0, 1, 3, 2]> (p) w = Where(m, pt, none)",
        product="o = MatMul(v, w)",
        outputs="float[B,4,6,S] o",
    )
    assert "no mask of the scores" in refusal_of(block.model()).reason


def test_row_guard_after_a_transpose() -> None:
    """It clears keys, not queries."""
    block = Block(
        inputs=f"{TURNED}, float[S,S] m",
        constants="float infinity = {-inf}, float none = {0.0}",
        mask="y = Add(x, m)",
        weights="pt = Transpose <perm = [0, 1, 3, 2]> (p) h = ReduceMax <axes = [-1]> (m)"
        " e = Equal(h, infinity) w = Where(e, none, pt)",
        product="o = MatMul(v, w)",
        outputs="float[B,4,6,S] o",
    )
    assert "not added to these rows" in refusal_of(block.model()).reason


@pytest.mark.parametrize("there", [9, 6, 2])
def test_bias_cast_to_a_type_without_infinity(there: int) -> None:
    """What is left of -inf is 1, or some number; it is no longer a condition."""
    block = Block(
        inputs="float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,T,6] v, bool[S,T] m",
        constants="float low = {-inf}, float open = {0.0}",
        mask=f"b = Where(m, open, low) c = Cast <to = {there}> (b) d = Cast <to = 1> (c) y = Add(x, d)",
    )
    terms = [
        entry.mask.terms if isinstance(entry, AttentionSite) else ()
        for entry in find(block.model())
    ]
    assert all(term.kind is MaskKind.BIAS for each in terms for term in each)


def test_dropout_whose_mask_is_an_output() -> None:
    """The mask stays an output."""
    block = Block(
        constants="float ratio = {0.5}",
        weights="w, dropped = Dropout(p, ratio)",
        outputs="float[B,4,S,6] o, bool[B,4,S,T] dropped",
    )
    assert "mask output of dropout" in refusal_of(block.model()).reason


def test_values_that_stretch_the_product() -> None:
    """V has as many batches as Q has heads, and one head: the product with it has 16 matrices, not 4."""
    block = Block(
        inputs="float[1,4,S,8] q, float[1,4,T,8] k, float[4,1,T,6] v", outputs="float[4,4,S,6] o"
    )
    assert "V has 1" in refusal_of(block.model()).reason


def test_two_named_extents_do_not_become_one() -> None:
    """Where batches M and N meet, one of them may be 1."""
    block = Block(
        inputs="float[M,4,S,8] q, float[N,4,T,8] k, float[N,4,T,6] v, float[M,1,1,T] m",
        mask="y = Add(x, m)",
        outputs="float[R,4,S,6] o",
    )
    assert "batch" in refusal_of(block.model()).reason


def test_values_whose_axes_in_front_are_swapped() -> None:
    """They have as many matrices as the weights have, and meet them in pairs of (B, 1) and (1, 4)."""
    block = Block(
        before="u = Transpose <perm = [1, 0, 2, 3]> (v)",
        product="o = MatMul(w, u)",
        outputs="float[4,4,S,6] o",
    )
    assert "V" in refusal_of(block.model()).reason


def test_values_repeated_over_batches() -> None:
    """One batch of Q and K meets two of V."""
    block = Block(
        constants="int64[4] twice = {2, 1, 1, 1}",
        before="u = Tile(v, twice)",
        product="o = MatMul(w, u)",
        outputs="float[R,4,S,6] o",
    )
    assert "V" in refusal_of(block.model()).reason
