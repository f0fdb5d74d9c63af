"""Capped scores: which cap and scale, wherever the factors stand."""

import pytest

from tests.match.blocks import PLAIN_INPUTS, Block, refusal_of
from tests.match.oracle import check_site

CONSTANTS = "float half = {0.5}, float two = {2.0}, float three = {3.0}, float back = {-3.0}"
CAPPED = {
    "div, tanh, mul": ("s1 = Div(s, three) t = Tanh(s1) x = Mul(t, three)", 1.0, 3.0),
    "scaled first": (
        "s0 = Mul(s, half) s1 = Div(s0, three) t = Tanh(s1) x = Mul(t, three)",
        0.5,
        3.0,
    ),
    "mul, tanh, mul": ("s1 = Mul(s, half) t = Tanh(s1) x = Mul(two, t)", 1.0, 2.0),
    "scaled afterwards": (
        "s1 = Div(s, two) t = Tanh(s1) t1 = Mul(t, two) x = Mul(t1, half)",
        0.5,
        1.0,
    ),
    "tanh alone": ("x = Tanh(s)", 1.0, 1.0),
    "turned": ("s1 = Mul(s, half) t = Tanh(s1) x = Mul(t, back)", -1.5, 3.0),
    "casts between": (
        "s1 = Div(s, three) d = Cast<to=11>(s1) t = Tanh(d) f = Cast<to=1>(t) x = Mul(f, three)",
        1.0,
        3.0,
    ),
}


@pytest.mark.parametrize("name", CAPPED)
def test_cap_and_scale(name: str) -> None:
    nodes, scale, cap = CAPPED[name]
    block = Block(constants=CONSTANTS, scores=f"s = MatMul(q, kt) {nodes}")
    site = check_site(block.model())
    assert (site.scale, site.softcap) == (pytest.approx(scale), cap)


def test_factor_on_the_keys_counts_inside_the_cap() -> None:
    keys = "k2 = Mul(k, half) kt = Transpose <perm = [0, 1, 3, 2]> (k2)"
    scores = "s = MatMul(q, kt) s1 = Div(s, three) t = Tanh(s1) x = Mul(t, three)"
    site = check_site(Block(constants=CONSTANTS, keys=keys, scores=scores).model())
    assert (site.scale, site.softcap) == (0.5, 3.0)


def test_mask_after_the_cap() -> None:
    scores = "s = MatMul(q, kt) s1 = Div(s, three) t = Tanh(s1) x = Mul(t, three)"
    inputs = f"{PLAIN_INPUTS}, float[S,T] bias"
    block = Block(inputs=inputs, constants=CONSTANTS, scores=scores, mask="y = Add(x, bias)")
    site = check_site(block.model())
    assert (site.softcap, [term.tensor for term in site.mask.terms]) == (3.0, ["bias"])


REFUSED = {
    "mask before the cap": (
        "b = Add(s, bias) t = Tanh(b) x = Mul(t, two)",
        "after a mask was added",
    ),
    "twice": ("t = Tanh(s) u = Tanh(t) x = Mul(u, two)", "capped already"),
    "cap per row": ("t = Tanh(s) x = Mul(t, bias)", "'n3'"),
    "cap of nothing": ("t = Tanh(s) x = Mul(t, zero)", "'n3'"),
    "another bend": ("t = Sigmoid(s) x = Mul(t, two)", "operator Sigmoid"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_bends_are_refused(name: str) -> None:
    nodes, reason = REFUSED[name]
    block = Block(
        inputs=f"{PLAIN_INPUTS}, float[S,T] bias",
        constants=f"{CONSTANTS}, float zero = {{0.0}}",
        scores=f"s = MatMul(q, kt) {nodes}",
    )
    assert reason in refusal_of(block.model()).reason
