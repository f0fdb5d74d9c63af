"""Masks of the first n[b] keys."""

import pytest
from onnx import ModelProto

from qfa_passes.core.site import Mask
from tests.match.blocks import PLAIN_INPUTS
from tests.match.oracle import check_site
from tests.match.test_causal import CONSTANTS, INDEX, masked

LENGTHS = (
    f"{PLAIN_INPUTS}, int64[B] n, int64[B] other, int32[B] short_n, int64[S] rows, int64[1] one_n"
)
FOUR = f"{INDEX} n3 = Unsqueeze(n, a123) "
SHOWN = {
    "less": f"{FOUR} m = Less(rj, n3) y = Where(m, x, ninf)",
    "greater": f"{FOUR} m = Greater(n3, j) y = Where(m, x, ninf)",
    "dropped": f"{FOUR} m = GreaterOrEqual(rj, n3) y = Where(m, ninf, x)",
    "dropped, turned": f"{FOUR} m = LessOrEqual(n3, rj) y = Where(m, ninf, x)",
    "not": f"{FOUR} m0 = GreaterOrEqual(rj, n3) m = Not(m0) y = Where(m, x, ninf)",
    "bias": f"{FOUR} m = Less(rj, n3) b = Where(m, zero, ninf) y = Add(x, b)",
    "new axes later": f"{INDEX} n1 = Unsqueeze(n, a1) m0 = Less(rj, n1) m = Unsqueeze(m0, a12) y = Where(m, x, ninf)",
    "bias, new axes later": f"""{INDEX} n1 = Unsqueeze(n, a1) m = Less(rj, n1) b = Where(m, zero, ninf)
        b3 = Unsqueeze(b, a1) b4 = Unsqueeze(b3, a1) y = Add(x, b4)""",
    "twice": f"{FOUR} m = Less(rj, n3) m2 = Greater(n3, j) both = And(m, m2) y = Where(both, x, ninf)",
}


def block(mask: str) -> ModelProto:
    """A block with lengths among its inputs."""
    more = "int64[3] a123 = {1, 2, 3}, int64[2] a12 = {1, 2}, int64[3] a013 = {0, 1, 3}"
    return masked(mask, LENGTHS, f"{CONSTANTS}, {more}").model()


@pytest.mark.parametrize("name", SHOWN)
def test_lengths(name: str) -> None:
    assert check_site(block(SHOWN[name])).mask == Mask(kv_length="n")


def test_one_length_for_all() -> None:
    nodes = f"{INDEX} n3 = Unsqueeze(one_n, a123) m = Less(rj, n3) y = Where(m, x, ninf)"
    assert check_site(block(nodes)).mask == Mask(kv_length="one_n")


def test_lengths_in_32_bits() -> None:
    nodes = f"""{INDEX} wide = Cast<to=7>(short_n) n3 = Unsqueeze(wide, a123) m = Less(rj, n3) y = Where(m, x, ninf)"""
    assert check_site(block(nodes)).mask == Mask(kv_length="short_n")


def test_lengths_beside_a_triangle() -> None:
    nodes = f"{FOUR} m1 = Less(rj, n3) m2 = LessOrEqual(j, i) m = And(m1, m2) y = Where(m, x, ninf)"
    assert check_site(block(nodes)).mask == Mask(causal=True, kv_length="n")


def test_two_lengths_keep_one_mask() -> None:
    nodes = f"""{FOUR} o3 = Unsqueeze(other, a123) m1 = Less(rj, n3) m2 = Less(rj, o3) m = And(m1, m2)
        y = Where(m, x, ninf)"""
    mask = check_site(block(nodes)).mask
    assert (mask.kv_length, [term.tensor for term in mask.terms]) == ("n", ["m2"])


OTHERS = {
    "one key more": f"{FOUR} m = LessOrEqual(rj, n3) y = Where(m, x, ninf)",
    "the keys behind": f"{FOUR} m = Greater(rj, n3) y = Where(m, x, ninf)",
    "the other side": f"{FOUR} m = Less(n3, rj) y = Where(m, x, ninf)",
    "dropped instead": f"{FOUR} m = Less(rj, n3) y = Where(m, ninf, x)",
    "finite": f"{FOUR} m = Less(rj, n3) y = Where(m, x, low)",
    "shifted keys": f"{FOUR} r1 = Sub(rj, i1) m = Less(r1, n3) y = Where(m, x, ninf)",
    "doubled": f"{FOUR} d = Add(n3, n3) m = Less(rj, d) y = Where(m, x, ninf)",
    "of queries": f"{FOUR} m = Less(i, n3) y = Where(m, x, ninf)",
    "per query": f"{INDEX} n3 = Unsqueeze(rows, a013) m = Less(rj, n3) y = Where(m, x, ninf)",
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_comparisons_keep_their_mask(name: str) -> None:
    mask = check_site(block(OTHERS[name])).mask
    assert (mask.kv_length, [term.tensor for term in mask.terms]) == (None, ["m"])


def test_lengths_where_queries_stand_at_the_end() -> None:
    """The operator would count from the end of the lengths, the mask counts from the last key."""
    nodes = f"""{FOUR} past = Sub(T, S) pos = Add(i, past) m1 = Less(rj, n3) m2 = LessOrEqual(j, pos) m = And(m1, m2)
        y = Where(m, x, ninf)"""
    mask = check_site(block(nodes)).mask
    assert (mask.queries_at_end, mask.kv_length) == (True, None)
    assert [term.tensor for term in mask.terms] == ["m1"]
