"""Weights that a mask sets to zero once more after the softmax, as XSoftmax does."""

from dataclasses import replace

import pytest

from tests.match.blocks import PLAIN_INPUTS, Block, refusal_of
from tests.match.oracle import check_site

MASKED = Block(
    inputs=f"{PLAIN_INPUTS}, bool[B,1,1,T] keep, bool[B,1,1,T] other",
    constants="float low = {-3.4e38}, float zero = {0.0}, float one = {1.0}",
    mask="y = Where(keep, x, low)",
    weights="w = Where(keep, p, zero)",
)
FORMS = {
    "plain": MASKED,
    "ten thousand": replace(MASKED, constants=MASKED.constants.replace("-3.4e38", "-10000.0")),
    "negated both": replace(
        MASKED, mask="d = Not(keep) y = Where(d, low, x)", weights="w = Where(d, zero, p)"
    ),
    "negated once": replace(MASKED, weights="d = Not(keep) w = Where(d, zero, p)"),
    "negated twice": replace(MASKED, weights="d = Not(keep) e = Not(d) w = Where(e, p, zero)"),
}


@pytest.mark.parametrize("name", FORMS)
def test_masked_weights(name: str) -> None:
    site = check_site(FORMS[name].model())
    assert [term.fill for term in site.mask.terms] == [float("-inf")]


def test_a_row_without_keys_is_zero() -> None:
    """Without the second mask it is the mean of V."""
    block = replace(
        MASKED,
        mask="d = Not(keep) n = And(keep, d) y = Where(n, x, low)",
        weights="w = Where(n, p, zero)",
    )
    check_site(block.model())


REFUSED = {
    "another mask": ("w = Where(other, p, zero)", "sets weights to zero by 'other'"),
    "the other keys": ("w = Where(keep, zero, p)", "sets weights to zero by 'keep'"),
    "to one": ("w = Where(keep, p, one)", "operator Where"),
    "to other weights": ("h = Mul(p, one) w = Where(keep, p, h)", "used by 2 nodes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_masks_of_weights_are_refused(name: str) -> None:
    weights, reason = REFUSED[name]
    constants = MASKED.constants.replace("{1.0}", "{0.5}")
    model = replace(MASKED, weights=weights, constants=constants).model()
    assert reason in refusal_of(model).reason


def test_weak_mask_of_scores_does_not_cover_for_it() -> None:
    block = replace(MASKED, constants="float low = {-2000.0}, float zero = {0.0}")
    assert "sets weights to zero by 'keep'" in refusal_of(block.model()).reason
