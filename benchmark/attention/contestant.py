"""What takes part in a comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy.typing as npt

from benchmark.attention.case import Case, Operands

Array = npt.NDArray[Any]

FLOAT32_ERROR: Final = 1e-6
BFLOAT16_ERROR: Final = 1e-3
INT8_ERROR: Final = 2e-2
COARSE_ERROR: Final = 0.3
"""Normalized mean squared errors above which a result is wrong, not merely of its format."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A way to compute one case.

    Attributes:
        name: Unique.
        run: Computes the case once.
        output: What the last run computed, as (B, H, S, D); None for a reading of memory.
        worst: The largest error against float64 that still counts as a right result.
        bytes: What it must read of keys and values, each once.
    """

    name: str
    run: Callable[[], object]
    output: Callable[[], Array] | None
    worst: float
    bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Absent:
    """Who takes no part, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Offer:
    """A contestant that is yet to be made: making it may fail, and then only it is missing."""

    name: str
    make: Callable[[], Contestant]


Entry = Offer | Absent
Field = Callable[[Case, Operands, int], Iterator[Entry]]
"""Names the entries of one library for a case, its operands and the number of threads."""
