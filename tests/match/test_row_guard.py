"""The guard that clears rows whose bias masks every key."""

from dataclasses import replace

import pytest

from tests.match.blocks import PLAIN_INPUTS, Block, refusal_of, site_of
from tests.match.oracle import check_site

GUARDED = Block(
    inputs=f"{PLAIN_INPUTS}, bool[B,1,S,T] keep, float[S,T] other",
    constants="float ninf = {-inf}, float low = {-1e9}, float zero = {0.0}, float one = {1.0},"
    "int64[1] last = {-1}, int64[1] rows = {-2}",
    mask="b = Where(keep, zero, ninf) y = Add(x, b)",
    weights="r = ReduceMax(b, last) e = Equal(r, ninf) w = Where(e, zero, p)",
    opset=18,
)
FORMS = {
    "plain": GUARDED,
    "commuted": replace(
        GUARDED, weights="r = ReduceMax(b, last) e = Equal(ninf, r) w = Where(e, zero, p)"
    ),
    "cast weights": replace(
        GUARDED,
        softmax="d = Cast<to=11>(y) p0 = Softmax<axis=-1>(d) p = Cast<to=1>(p0)",
    ),
    "zero like the weights": replace(
        GUARDED,
        weights="r = ReduceMax(b, last) n = CastLike(ninf, b) e = Equal(r, n) z = CastLike(zero, p) w = Where(e, z, p)",
    ),
    "axes as an attribute": replace(
        GUARDED,
        opset=17,
        weights="r = ReduceMax<axes=[-1]>(b) e = Equal(r, ninf) w = Where(e, zero, p)",
    ),
    "two biases": replace(
        GUARDED, mask="b = Where(keep, zero, ninf) y0 = Add(x, other) y = Add(y0, b)"
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_guard_is_folded(name: str) -> None:
    site = check_site(FORMS[name].model())
    assert "guard of fully masked rows folded" in site.notes


def test_a_row_that_sees_nothing_is_zero() -> None:
    model = replace(
        GUARDED, mask="n = Not(keep) m = And(keep, n) b = Where(m, zero, ninf) y = Add(x, b)"
    ).model()
    assert site_of(model).mask.terms


REFUSED = {
    "another bias": (
        "r = ReduceMax(other, last) e = Equal(r, ninf) w = Where(e, zero, p)",
        "'other' masks",
    ),
    "over the queries": (
        "r = ReduceMax(b, rows) e = Equal(r, ninf) w = Where(e, zero, p)",
        "used by",
    ),
    "no axes": ("r = ReduceMax(b) e = Equal(r, ninf) w = Where(e, zero, p)", "used by"),
    "minimum": ("r = ReduceMin(b, last) e = Equal(r, ninf) w = Where(e, zero, p)", "used by"),
    "another number": ("r = ReduceMax(b, last) e = Equal(r, low) w = Where(e, zero, p)", "used by"),
    "ones": ("r = ReduceMax(b, last) e = Equal(r, ninf) w = Where(e, one, p)", "used by"),
    "turned round": ("r = ReduceMax(b, last) e = Equal(r, ninf) w = Where(e, p, zero)", "used by"),
    "weights used elsewhere": (
        "r = ReduceMax(b, last) e = Equal(r, ninf) g = Where(e, zero, p) w = Add(g, p)",
        "used by 2 nodes",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_guard_is_refused(name: str) -> None:
    weights, reason = REFUSED[name]
    found = refusal_of(replace(GUARDED, weights=weights).model()).reason
    assert reason in found or "between softmax and PV" in found
