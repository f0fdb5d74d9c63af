"""From bounds on indices to what the operator's attributes say: causal, windows, and where the queries stand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from qfa_passes.core.site import Mask
from qfa_passes.graph.dims import Dim
from qfa_passes.match.index_algebra import Linear, Truth


@dataclass(frozen=True, slots=True)
class ScoreExtents:
    """Symbolic S and T of the scores that a mask applies to, and B if it is an axis of its own."""

    queries: Dim
    keys: Dim
    batch: Dim | None = None

    def offset(self, *, at_end: bool) -> Dim:
        """Where query 0 stands."""
        return self.keys - self.queries if at_end else Dim.of(0)


@dataclass(frozen=True, slots=True)
class Band:
    """The query at p sees keys from p - left to p + right; None: no limit on that side."""

    left: int | None = None
    right: int | None = None

    def narrowed(self, other: Band) -> Band:
        """What both let through."""
        return Band(_least(self.left, other.left), _least(self.right, other.right))

    @property
    def open(self) -> bool:
        """True if it hides nothing."""
        return self.left is None and self.right is None

    def never_empty(self, extents: ScoreExtents, *, at_end: bool) -> bool:
        """True if every query sees a key, whatever the lengths are."""
        lead = extents.keys - extents.queries
        first_sees = self.right is None or not at_end or (lead + Dim.of(self.right)).non_negative
        last_sees = self.left is None or at_end or (lead + Dim.of(self.left)).non_negative
        return first_sees and last_sees


ANY = Band()


def band_of(visible: Truth, extents: ScoreExtents, *, at_end: bool) -> Band | None:
    """The band of keys that a truth about (query, key) lets through; None if it is no band of the operator."""
    if not visible.conjunctive:
        return None
    band = ANY
    for bound in visible.bounds:
        if _always(bound, extents):
            continue
        side = _side(bound, extents.offset(at_end=at_end))
        if side is None:
            return None
        band = band.narrowed(side)
    return band


def band_in(mask: Mask) -> Band:
    """The band that a mask's attributes make."""
    left = None if mask.left_window < 0 else mask.left_window
    right = 0 if mask.causal else None if mask.right_window < 0 else mask.right_window
    return Band(left, right)


def with_band(mask: Mask, band: Band, *, at_end: bool) -> Mask:
    """The mask with this band as its attributes."""
    return replace(
        mask,
        causal=band.right == 0,
        queries_at_end=at_end and not band.open,
        left_window=-1 if band.left is None else band.left,
        right_window=band.right or -1,
    )


def all_bands(bands: Iterable[Band]) -> Band:
    """What all of them let through."""
    result = ANY
    for band in bands:
        result = result.narrowed(band)
    return result


def _least(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)


def _always(bound: Linear, extents: ScoreExtents) -> bool:
    """True if a bound holds for all indices and lengths."""
    lowest = bound.constant
    for axis, slope in bound.slopes:
        if slope < 0:
            extent = (extents.keys, extents.queries)[axis]
            lowest = lowest + Dim.of(slope) * (extent - Dim.of(1))
    return lowest.non_negative


def _side(bound: Linear, offset: Dim) -> Band | None:
    """Reads i + c >= j or j + c >= i, with query i at i + offset."""
    if bound.slopes == ((0, -1), (1, 1)):
        right = (bound.constant - offset).value
        return None if right is None or right < 0 else Band(right=right)
    if bound.slopes == ((0, 1), (1, -1)):
        left = (bound.constant + offset).value
        return None if left is None or left < 0 else Band(left=left)
    return None
