"""What elementwise operators make of values of the index algebra."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Final

from qfa_passes.graph.dims import Dim
from qfa_passes.match.index_algebra import (
    ALWAYS,
    NEVER,
    Choice,
    Linear,
    Number,
    Truth,
    Value,
    as_linear,
)

_COMPARES: Final[dict[str, Callable[[Number, Number], bool]]] = {
    "Equal": operator.eq,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
}
_ARITHMETIC: Final[dict[str, Callable[[Number, Number], Number]]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": operator.truediv,
}
ELEMENTWISE: Final = frozenset((*_COMPARES, *_ARITHMETIC, "And", "Or", "Where"))
"""Operators of one result element from one element of each input."""


def combine(op: str, operands: list[Value]) -> Value | None:
    """The value of one of `ELEMENTWISE`; None if it cannot be said."""
    if op == "Where":
        condition, yes, no = operands
        return _select(condition, yes, no) if isinstance(condition, Truth) else None
    left, right = operands
    if isinstance(left, Truth) and isinstance(right, Truth):
        if op in ("And", "Or"):
            return left.both(right) if op == "And" else left.either(right)
        return _same_truth(left, right) if op == "Equal" else None
    if isinstance(left, Truth) or isinstance(right, Truth):
        return None
    if op in _COMPARES:
        return _compare(op, left, right)
    return _calculate(op, left, right) if op in _ARITHMETIC else None


def _same_truth(left: Truth, right: Truth) -> Truth | None:
    for one, other in ((left, right), (right, left)):
        if other in (ALWAYS, NEVER):
            return one if other == ALWAYS else one.negated()
    return None


def _compare(op: str, left: Value, right: Value) -> Truth | None:
    if isinstance(left, Choice) and isinstance(right, (int, float)):
        return left.holds(lambda number: _COMPARES[op](number, right))
    if isinstance(right, Choice) and isinstance(left, (int, float)):
        return right.holds(lambda number: _COMPARES[op](left, number))
    first, second = as_linear(left), as_linear(right)
    if first is None or second is None:
        return None
    above = first.plus(second.times(-1))  # left - right
    below, one = above.times(-1), Linear((), Dim.of(-1))
    bounds = {
        "Equal": (above, below),
        "Less": (below.plus(one),),
        "LessOrEqual": (below,),
        "Greater": (above.plus(one),),
        "GreaterOrEqual": (above,),
    }
    return Truth.all_of(*bounds[op])


def _calculate(op: str, left: Value, right: Value) -> Value | None:
    function = _ARITHMETIC[op]
    if isinstance(left, Choice) and isinstance(right, Choice):
        return _joined(op, left, right)
    if isinstance(left, Choice) and isinstance(right, (int, float)):
        return left.mapped(lambda number: _number(function, number, right))
    if isinstance(right, Choice) and isinstance(left, (int, float)):
        return right.mapped(lambda number: _number(function, left, number))
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return _number(function, left, right)
    first, second = as_linear(left), as_linear(right)
    if first is None or second is None:
        return None
    if op in ("Add", "Sub"):
        return first.plus(second if op == "Add" else second.times(-1))
    for one, other in ((first, second), (second, first)):
        if op == "Mul" and not other.slopes and other.constant.value is not None:
            return one.times(other.constant.value)
    return None


def _number(
    function: Callable[[Number, Number], Number], left: Number, right: Number
) -> Number | None:
    if function is operator.truediv and isinstance(left, int) and isinstance(right, int):
        return None  # rounds
    try:
        result = function(left, right)
    except (OverflowError, ZeroDivisionError):
        return None
    return None if result != result else result


def _joined(op: str, left: Choice, right: Choice) -> Choice | None:
    """Two biases of 0 and -inf added, or two factors of which each may be 0."""
    for one in (left, left.flipped()):
        for other in (right, right.flipped()):
            hides = one.yes == other.yes == 0 and one.no == other.no == -math.inf
            factors = (
                one.no == other.no == 0 and math.isfinite(one.yes) and math.isfinite(other.yes)
            )
            if (op == "Add" and hides) or (op == "Mul" and factors):
                where = one.where.both(other.where)
                yes, no = (0, -math.inf) if op == "Add" else (one.yes * other.yes, 0)
                return None if where is None else Choice(where, yes, no)
    return None


def _select(condition: Truth, yes: Value, no: Value) -> Value | None:
    if condition in (ALWAYS, NEVER):
        return yes if condition == ALWAYS else no
    if isinstance(yes, Truth) and isinstance(no, Truth):
        return _select_truth(condition, yes, no)
    if isinstance(yes, (int, float)) and isinstance(no, (int, float)):
        return Choice(condition, yes, no)
    if isinstance(yes, (int, float)) and isinstance(no, Choice):
        return _select_number(condition, yes, no)
    if isinstance(no, (int, float)) and isinstance(yes, Choice):
        return _select_number(condition.negated(), no, yes)
    return None


def _select_truth(condition: Truth, yes: Truth, no: Truth) -> Truth | None:
    if no == NEVER:
        return condition.both(yes)
    if yes == ALWAYS:
        return condition.either(no)
    if yes == NEVER:
        return condition.negated().both(no)
    return condition.negated().either(yes) if no == ALWAYS else None


def _select_number(condition: Truth, number: Number, other: Choice) -> Choice | None:
    """``number`` where the condition holds, elsewhere a choice that has this number too."""
    for choice in (other, other.flipped()):
        if choice.yes == number:
            where = condition.either(choice.where)
            return None if where is None else Choice(where, choice.yes, choice.no)
    return None
