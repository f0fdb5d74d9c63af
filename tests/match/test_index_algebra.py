"""The algebra of masks against numpy: whatever it says of a value holds for every element."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qfa_passes.graph.dims import Dim
from qfa_passes.match.bands import Band, ScoreExtents, band_of
from qfa_passes.match.index_algebra import (
    ALWAYS,
    NEVER,
    Choice,
    Linear,
    Truth,
    Value,
)
from qfa_passes.match.tables import table_value

Array = npt.NDArray[Any]
MANY = settings(max_examples=200, deadline=None, derandomize=True)
SIZES = list(product((1, 2, 5), (1, 3, 5, 8)))
STEPS = st.integers(-2, 2)
NUMBERS = st.integers(-4, 4)


def evaluate(value: Value, queries: int, keys: int) -> Array:
    """A value at every query and key, where S and T are these."""
    if isinstance(value, Linear):
        index = {1: np.arange(queries)[:, np.newaxis], 0: np.arange(keys)[np.newaxis, :]}
        start = np.full((queries, keys), value.constant.at({"S": queries, "T": keys}))
        return start + sum(slope * index[axis] for axis, slope in value.slopes)
    if isinstance(value, Truth):
        held = [evaluate(bound, queries, keys) >= 0 for bound in value.bounds]
        empty = np.full((queries, keys), value.every)
        return np.all([empty, *held], axis=0) if value.every else np.any([empty, *held], axis=0)
    if isinstance(value, Choice):
        return np.where(evaluate(value.where, queries, keys), value.yes, value.no)
    return np.full((queries, keys), value)


@st.composite
def linears(draw: st.DrawFn) -> Linear:
    """A sum of indices, a number, S and T."""
    constant = Dim.of(draw(NUMBERS))
    for name in ("S", "T"):
        constant = constant + Dim.of(draw(st.integers(-1, 1))) * Dim.of(name)
    keys, queries = draw(st.one_of(st.sampled_from([(-1, 1), (1, -1)]), st.tuples(STEPS, STEPS)))
    return Linear.of({0: keys, 1: queries}, constant)


TRUTHS = st.builds(Truth, st.booleans(), st.lists(linears(), max_size=2).map(tuple))
CHOICES = st.builds(Choice, TRUTHS, st.sampled_from([0, 1, 2.5]), st.sampled_from([0, 1, -3]))


@MANY
@given(TRUTHS, TRUTHS)
def test_truths(left: Truth, right: Truth) -> None:
    for queries, keys in SIZES:
        one, other = (evaluate(truth, queries, keys) for truth in (left, right))
        assert (evaluate(left.negated(), queries, keys) == ~one).all()
        for joined, wanted in ((left.both(right), one & other), (left.either(right), one | other)):
            assert joined is None or (evaluate(joined, queries, keys) == wanted).all()


@MANY
@given(linears(), linears(), NUMBERS)
def test_sums(left: Linear, right: Linear, factor: int) -> None:
    for queries, keys in SIZES:
        one, other = (evaluate(linear, queries, keys) for linear in (left, right))
        assert (evaluate(left.plus(right), queries, keys) == one + other).all()
        assert (evaluate(left.times(factor), queries, keys) == one * factor).all()


@MANY
@given(CHOICES, TRUTHS)
def test_choices(choice: Choice, kept: Truth) -> None:
    cleared, positive = choice.cleared(kept), choice.holds(lambda number: number > 0)
    for queries, keys in SIZES:
        full, keep = evaluate(choice, queries, keys), evaluate(kept, queries, keys)
        assert (evaluate(choice.flipped(), queries, keys) == full).all()
        assert (evaluate(positive, queries, keys) == (full > 0)).all()
        assert (
            cleared is None or (evaluate(cleared, queries, keys) == np.where(keep, full, 0)).all()
        )


@MANY
@given(TRUTHS, st.booleans(), st.sampled_from(["free", "square", "fixed"]))
def test_bands(truth: Truth, at_end: bool, kind: str) -> None:
    extents = {
        "free": ScoreExtents(Dim.of("S"), Dim.of("T")),
        "square": ScoreExtents(Dim.of("S"), Dim.of("S")),
        "fixed": ScoreExtents(Dim.of(5), Dim.of(8)),
    }[kind]
    band = band_of(truth, extents, at_end=at_end)
    if band is None:
        return
    for queries, keys in SIZES:
        if (kind == "square" and queries != keys) or (
            kind == "fixed" and (queries, keys) != (5, 8)
        ):
            continue
        seen = seen_in(band, queries, keys, at_end=at_end)
        assert (evaluate(truth, queries, keys) == seen).all()
        if band.never_empty(extents, at_end=at_end):
            assert seen.any(axis=1).all()


def seen_in(band: Band, queries: int, keys: int, *, at_end: bool) -> Array:
    """What the operator lets a query see."""
    place = np.arange(queries)[:, np.newaxis] + (keys - queries if at_end else 0)
    offset = np.arange(keys)[np.newaxis, :] - place
    seen = np.ones((queries, keys), bool)
    if band.left is not None:
        seen &= offset >= -band.left
    if band.right is not None:
        seen &= offset <= band.right
    return seen


@MANY
@given(st.data())
def test_tables(data: st.DataObject) -> None:
    """Tables that follow a rule, and some with one number changed."""
    queries, keys = data.draw(st.sampled_from(SIZES))
    rule = data.draw(st.one_of(linears(), TRUTHS, CHOICES))
    table = evaluate(rule, queries, keys)
    if data.draw(st.booleans()):
        table = table.copy()
        place = data.draw(st.integers(0, queries - 1)), data.draw(st.integers(0, keys - 1))
        table[place] = 1 - table[place] if table.dtype != bool else not table[place]
    read = table_value(table)
    if read is not None:
        assert (evaluate(read, queries, keys) == table).all()


READ = {
    "numbers in a row": (np.arange(3, 9), Linear(((0, 1),), Dim.of(3))),
    "difference": (
        np.subtract.outer(np.arange(4), np.arange(6)),
        Linear(((0, -1), (1, 1)), Dim.of(0)),
    ),
    "triangle": (np.tri(4, 6, 1) > 0, Truth(True, (Linear(((0, -1), (1, 1)), Dim.of(1)),))),
    "all": (np.ones((2, 3), bool), ALWAYS),
    "none": (np.zeros((2, 3), bool), NEVER),
    "the same number": (np.full((2, 2), -np.inf, np.float32), float("-inf")),
}


@pytest.mark.parametrize("name", READ)
def test_rules_of_tables(name: str) -> None:
    table, rule = READ[name]
    assert table_value(table) == rule


def test_a_table_without_a_rule() -> None:
    assert table_value(np.array([1.0, 2.0, 4.0])) is None
    assert table_value(np.array([0.0, np.nan])) is None
    assert table_value(np.array([], np.int64)) is None
