"""What the values that make a mask say about an element's place: linear numbers, comparisons of them, choices.

A mask such as the causal triangle is made of ranges, lengths and comparisons. Each of its values is one of

    Number   the same everywhere
    Linear   a sum of indices and lengths, such as i + T - S
    Truth    a conjunction, or a disjunction, of bounds; a bound is a Linear that is at least 0
    Choice   one number where a Truth holds and another elsewhere, such as 0 and -inf

Axes are counted from the last one (0: keys, 1: queries), so that broadcasting needs no change. Nothing here is a
sample: what such values say is known for all lengths at once. What cannot be said is None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qfa_passes.graph.dims import Dim

Number = int | float


@dataclass(frozen=True, slots=True)
class Linear:
    """A sum of slope * index over axes, and a constant.

    Attributes:
        slopes: (axis, slope), slopes not 0, in the order of axes.
        constant: An integer, or a polynomial of extents.
    """

    slopes: tuple[tuple[int, int], ...]
    constant: Dim

    @staticmethod
    def of(slopes: Mapping[int, int], constant: Dim) -> Linear:
        """Drops slopes of 0."""
        kept = sorted((axis, slope) for axis, slope in slopes.items() if slope)
        return Linear(tuple(kept), constant)

    def plus(self, other: Linear) -> Linear:
        """The sum."""
        slopes = dict(self.slopes)
        for axis, slope in other.slopes:
            slopes[axis] = slopes.get(axis, 0) + slope
        return Linear.of(slopes, self.constant + other.constant)

    def times(self, factor: int) -> Linear:
        """A multiple."""
        slopes = {axis: slope * factor for axis, slope in self.slopes}
        return Linear.of(slopes, self.constant * Dim.of(factor))


@dataclass(frozen=True, slots=True)
class Truth:
    """All of the bounds hold (``every``), or at least one of them; each is a Linear that is at least 0."""

    every: bool
    bounds: tuple[Linear, ...]

    @staticmethod
    def all_of(*bounds: Linear) -> Truth:
        """The conjunction of bounds, without those that are plain numbers."""
        open_ = [bound for bound in bounds if bound.slopes or bound.constant.value is None]
        closed = [bound.constant.value for bound in bounds if bound not in open_]
        return (
            NEVER
            if any(number is None or number < 0 for number in closed)
            else Truth(True, tuple(open_))
        )

    def negated(self) -> Truth:
        """The opposite: x >= 0 becomes -x - 1 >= 0, as indices and lengths are integers."""
        return Truth(
            not self.every,
            tuple(bound.times(-1).plus(Linear((), Dim.of(-1))) for bound in self.bounds),
        )

    def both(self, other: Truth) -> Truth | None:
        """The conjunction, if it is one of bounds."""
        for one, rest in ((self, other), (other, self)):
            if one == ALWAYS:
                return rest
            if one == NEVER:
                return NEVER
        if not (self.conjunctive and other.conjunctive):
            return None
        return Truth(True, tuple(dict.fromkeys((*self.bounds, *other.bounds))))

    def either(self, other: Truth) -> Truth | None:
        """The disjunction, if it is one of bounds."""
        neither = self.negated().both(other.negated())
        return None if neither is None else neither.negated()

    @property
    def conjunctive(self) -> bool:
        """True if it can be read as a conjunction."""
        return self.every or len(self.bounds) == 1


ALWAYS = Truth(True, ())
NEVER = Truth(False, ())


@dataclass(frozen=True, slots=True)
class Choice:
    """``yes`` where a condition holds, ``no`` elsewhere."""

    where: Truth
    yes: Number
    no: Number

    def mapped(self, function: Callable[[Number], Number | None]) -> Choice | None:
        """The choice between what a function makes of the two numbers."""
        yes, no = function(self.yes), function(self.no)
        return None if yes is None or no is None else Choice(self.where, yes, no)

    def flipped(self) -> Choice:
        """The same with the opposite condition."""
        return Choice(self.where.negated(), self.no, self.yes)

    def holds(self, test: Callable[[Number], bool]) -> Truth:
        """Where the number passes a test."""
        yes, no = test(self.yes), test(self.no)
        if yes == no:
            return ALWAYS if yes else NEVER
        return self.where if yes else self.where.negated()

    def cleared(self, kept: Truth) -> Choice | None:
        """The same, but 0 where ``kept`` does not hold."""
        for choice in (self, self.flipped()):
            if choice.no == 0:
                where = choice.where.both(kept)
                return None if where is None else Choice(where, choice.yes, 0)
        return None


Value = int | float | Linear | Truth | Choice


def as_linear(value: Value) -> Linear | None:
    """A number or linear value as a Linear."""
    if isinstance(value, Linear):
        return value
    if isinstance(value, (int, float)) and value == value and abs(value) < 1 << 62:
        return Linear((), Dim.of(int(value))) if int(value) == value else None
    return None


def as_choice(value: Value) -> Choice | None:
    """A number, truth or choice as a Choice; truths are 1 and 0."""
    if isinstance(value, Choice):
        return value
    if isinstance(value, Truth):
        return Choice(value, 1, 0)
    return Choice(ALWAYS, value, value) if isinstance(value, (int, float)) else None


def linears_of(value: Value) -> tuple[Linear, ...]:
    """The linear numbers that a value is made of."""
    if isinstance(value, Linear):
        return (value,)
    if isinstance(value, Truth):
        return value.bounds
    return value.where.bounds if isinstance(value, Choice) else ()


def moved(value: Value, move: Callable[[Linear], Linear | None]) -> Value | None:
    """The value with its indices renamed by ``move``, as a change of layout does."""
    if isinstance(value, Linear):
        return move(value)
    if isinstance(value, Truth):
        bounds = [move(bound) for bound in value.bounds]
        known = tuple(bound for bound in bounds if bound is not None)
        return Truth(value.every, known) if len(known) == len(bounds) else None
    if isinstance(value, Choice):
        where = moved(value.where, move)
        return Choice(where, value.yes, value.no) if isinstance(where, Truth) else None
    return value
