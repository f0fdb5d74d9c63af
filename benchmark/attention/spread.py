"""Numbers about many times: ratios per round, their middle and their spread."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """The quartiles of some numbers."""

    low: float
    middle: float
    high: float


def spread(numbers: Iterable[float]) -> Spread:
    """The quartiles; of one number, that number."""
    ordered = sorted(numbers)
    if len(ordered) < 2:
        return Spread(ordered[0], ordered[0], ordered[0])
    low, middle, high = statistics.quantiles(ordered, n=4, method="inclusive")
    return Spread(low, middle, high)


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> Spread:
    """How many times as long they take, round by round."""
    return spread(a / b for a, b in zip(theirs, ours, strict=True))


def fastest(columns: Sequence[Sequence[float]]) -> list[float]:
    """The shortest time of each round."""
    return [min(row) for row in zip(*columns, strict=True)]
