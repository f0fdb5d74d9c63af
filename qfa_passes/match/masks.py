"""What a mask says: a band of keys that an attribute can say too, a bool behind a bias, or nothing at all."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from qfa_passes.core.site import Mask, MaskKind, MaskTerm
from qfa_passes.graph.shapes import Shape
from qfa_passes.match.at_lengths import take_triangle
from qfa_passes.match.bands import (
    Band,
    ScoreExtents,
    all_bands,
    band_in,
    band_of,
    with_band,
)
from qfa_passes.match.context import MatchContext
from qfa_passes.match.index_algebra import ALWAYS, NEVER, Choice, Truth, linears_of
from qfa_passes.match.index_values import index_values
from qfa_passes.match.key_lengths import with_lengths
from qfa_passes.match.mask_parts import rejoined, split_term

__all__ = ["ScoreExtents", "hides", "resolve_masks"]

_HIDING: Final = (-1e9, float(np.finfo(np.float16).min))
"""A score at or below the first, or equal to the second, is out of reach of every score that a model computes."""

OPEN: Final = Mask()
"""A mask that hides nothing."""


@dataclass(frozen=True, slots=True)
class Visible:
    """Which keys a term lets a query see.

    Attributes:
        truth: A condition on the indices of query (axis 1) and key (axis 0).
        soft: The others keep a score, a very low one.
    """

    truth: Truth
    soft: bool


@dataclass(frozen=True, slots=True)
class _Folding:
    """Parts of a mask as attributes, and the parts that stay values."""

    band: Band
    kept: tuple[MaskTerm, ...]
    folded: int


def resolve_masks(
    context: MatchContext,
    terms: tuple[MaskTerm, ...],
    extents: ScoreExtents,
    base: Mask = OPEN,
) -> Mask:
    """Reads a mask's terms as simply as can be: what is provably a band joins the attributes of ``base``."""
    counts = Counter(part for term in terms for part in split_term(context, term))
    parts = tuple(dict.fromkeys(_repeated(part, times) for part, times in counts.items()))
    if base == OPEN:
        base, parts = take_triangle(context, index_values(context), parts, extents)
    seen = {part: _visible(context, part, extents) for part in parts}
    ways = [(at_end, _fold(parts, seen, extents, at_end, base)) for at_end in _alignments(base)]
    at_end, best = max(ways, key=lambda way: (way[1].folded, way[1].band.right == 0))
    band = band_in(base).narrowed(best.band)
    kept = rejoined(context, terms, best.kept)
    mask = replace(with_band(base, band, at_end=at_end), terms=kept)
    return with_lengths(context, mask, extents.keys, index_values(context))


def _repeated(term: MaskTerm, times: int) -> MaskTerm:
    """A condition that is asked twice is the same condition; a bias that is added twice is not the same bias."""
    return replace(term, factor=term.factor * times) if term.kind is MaskKind.BIAS else term


def _alignments(base: Mask) -> tuple[bool, ...]:
    """Where the queries may stand; the first is preferred."""
    if not band_in(base).open:
        return (base.queries_at_end,)
    return (False,) if base.kv_length is not None else (False, True)


def _fold(
    parts: tuple[MaskTerm, ...],
    seen: dict[MaskTerm, Visible | None],
    extents: ScoreExtents,
    at_end: bool,
    base: Mask,
) -> _Folding:
    bands: dict[MaskTerm, Band] = {}
    # With lengths the queries that stand at the end stand at the end of these.
    foldable = not (at_end and base.kv_length is not None)
    for part in parts:
        visible = seen[part]
        band = None if visible is None else band_of(visible.truth, extents, at_end=at_end)
        if band is not None and (foldable or band.open):
            bands[part] = band
    soft = [part for part in bands if not bands[part].open and _is_soft(seen[part])]
    # Where another mask hides all that a row sees of a soft band, the other keys come out on top: keep the value.
    alone = len(bands) == len(parts) and replace(base, queries_at_end=False) == OPEN
    joined = all_bands(bands.values())
    if not (alone and joined.never_empty(extents, at_end=at_end)):
        for part in soft:
            del bands[part]
    kept = tuple(part for part in parts if part not in bands)
    return _Folding(all_bands(bands.values()), kept, len(bands))


def _is_soft(visible: Visible | None) -> bool:
    return visible is not None and visible.soft


def _visible(context: MatchContext, term: MaskTerm, extents: ScoreExtents) -> Visible | None:
    """What a term lets through, if that depends on nothing but indices and lengths."""
    tensor = context.tensors[term.tensor]
    shape = context.shapes.shape(tensor)
    if term.fewer_keys or shape is None:
        return None
    value = index_values(context).value(tensor)
    if isinstance(value, (int, float)) and term.kind is MaskKind.BIAS:
        return Visible(ALWAYS, soft=False) if value == 0 else None
    if value in (ALWAYS, NEVER):  # the same in every layout
        shape = ()
    elif term.views:
        return None
    if isinstance(value, Truth) and term.kind is not MaskKind.BIAS and hides(term.fill):
        truth = value if term.kind is MaskKind.KEEP else value.negated()
        return _over_scores(Visible(truth, not math.isinf(term.fill)), shape, extents)
    if isinstance(value, Choice) and term.kind is MaskKind.BIAS and term.factor > 0:
        for choice in (value, value.flipped()):
            low = choice.no * term.factor
            if choice.yes == 0 and hides(low):
                visible = Visible(choice.where, not math.isinf(low))
                return _over_scores(visible, shape, extents)
    return None


def _over_scores(visible: Visible, shape: Shape, extents: ScoreExtents) -> Visible | None:
    """The same, if its indices are those of the scores."""
    own = {0: extents.keys, 1: extents.queries}
    axes = {axis for linear in linears_of(visible.truth) for axis, _ in linear.slopes}
    fits = all(axis in own and shape[-1 - axis] == own[axis] for axis in axes)
    return visible if fits else None


def hides(score: float) -> bool:
    """True if a key with this score has no weight next to one with a score that was computed."""
    return score <= _HIDING[0] or score == _HIDING[1]
