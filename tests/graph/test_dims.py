"""The algebra of extents against plain numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfa_passes.graph.dims import Dim, product

SYMBOLS = ("batch", "seq", "past")
numbers = st.fixed_dictionaries({symbol: st.integers(1, 50) for symbol in SYMBOLS})
monomials = st.lists(st.sampled_from(SYMBOLS), max_size=3).map(lambda names: tuple(sorted(names)))
dims = st.dictionaries(monomials, st.integers(-9, 9), max_size=4).map(Dim)


def value(dim: Dim, at: dict[str, int]) -> int:
    """The oracle: the printed form, evaluated by Python."""
    return int(eval(repr(dim), {}, dict(at)))


@given(dims, dims, numbers)
def test_sum_difference_product(left: Dim, right: Dim, at: dict[str, int]) -> None:
    assert value(left + right, at) == value(left, at) + value(right, at)
    assert value(left - right, at) == value(left, at) - value(right, at)
    assert value(left * right, at) == value(left, at) * value(right, at)
    assert value(-left, at) == -value(left, at)


@given(dims, numbers)
def test_value_at_numbers(dim: Dim, at: dict[str, int]) -> None:
    assert dim.at(at) == value(dim, at)


@given(dims, dims)
def test_a_product_divides_by_its_factor(left: Dim, right: Dim) -> None:
    if right.terms:
        assert (left * right).divide(right) == left


@given(dims)
def test_a_declared_expression_is_what_it_says(dim: Dim) -> None:
    assert Dim.parse(repr(dim)) == dim


@pytest.mark.parametrize("text", ["a/b", "floor(n)", "a b", "a**2", "", "2.5*n", "((", "n[0]"])
def test_other_declared_names_are_symbols(text: str) -> None:
    assert Dim.parse(text) == Dim.of(text)


@given(dims, dims, numbers)
def test_a_quotient_is_exact(left: Dim, right: Dim, at: dict[str, int]) -> None:
    quotient = left.divide(right)
    if quotient is not None:
        assert value(quotient, at) * value(right, at) == value(left, at)


@given(dims, dims, numbers)
def test_equal_extents_are_equal_in_every_run(left: Dim, right: Dim, at: dict[str, int]) -> None:
    if left == right:
        assert value(left, at) == value(right, at)
        assert hash(left) == hash(right)
    if left - right == 0:
        assert left == right


@given(dims, st.integers(-20, 20), numbers)
def test_differs_is_proof(dim: Dim, number: int, at: dict[str, int]) -> None:
    if dim.differs(number):
        assert value(dim, at) != number
    if dim.non_negative:
        assert value(dim, at) >= 0


@given(st.lists(dims, max_size=4), numbers)
def test_product_of_many(factors: list[Dim], at: dict[str, int]) -> None:
    expected = 1
    for factor in factors:
        expected *= value(factor, at)
    assert value(product(tuple(factors)), at) == expected


def test_unknown_extents_equal_nothing() -> None:
    assert Dim.unknown() != Dim.unknown()
    assert not Dim.unknown().is_symbol
    assert Dim.of("seq").is_symbol and not (Dim.of("seq") * Dim.of(2)).is_symbol


def test_constants() -> None:
    assert (Dim.of(3).value, Dim.of(0).value, Dim.of("seq").value) == (3, 0, None)
    assert Dim.of(3) == 3 and Dim.of("seq") != 3
    assert Dim.of(6).divide(Dim.of(4)) is None and Dim.of(6).divide(Dim.of(0)) is None
