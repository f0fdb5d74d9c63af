"""What a mask says: a band of keys that an attribute can say too, a bool behind a bias, or nothing at all."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.core.site import Mask, MaskKind, MaskTerm
from qfa_passes.graph.constants import scalar_value
from qfa_passes.graph.ir import is_op, producer
from qfa_passes.graph.shapes import Shape
from qfa_passes.match.bands import (
    Band,
    ScoreExtents,
    all_bands,
    band_in,
    band_of,
    with_band,
)
from qfa_passes.match.context import MatchContext
from qfa_passes.match.index_algebra import Choice, Truth, linears_of
from qfa_passes.match.index_values import IndexValues

__all__ = ["ScoreExtents", "hides", "resolve_masks", "split_term"]

_MOST_PARTS: Final = 16
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
    parts = tuple(dict.fromkeys(part for term in terms for part in split_term(context, term)))
    seen = {part: _visible(context, part, extents) for part in parts}
    ways = [(at_end, _fold(parts, seen, extents, at_end, base)) for at_end in _alignments(base)]
    at_end, best = max(ways, key=lambda way: (way[1].folded, way[1].band.right == 0))
    band = band_in(base).narrowed(best.band)
    kept = _rejoined(context, terms, best.kept)
    return replace(with_band(base, band, at_end=at_end), terms=kept)


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
    if term.views or term.fewer_keys or shape is None:
        return None
    value = _index_values(context).value(tensor)
    if isinstance(value, (int, float)) and term.kind is MaskKind.BIAS:
        return Visible(Truth(True, ()), soft=False) if value == 0 else None
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


def _index_values(context: MatchContext) -> IndexValues:
    values = context.mask_cache.setdefault(IndexValues, IndexValues(context.shapes))
    assert isinstance(values, IndexValues)
    return values


def hides(score: float) -> bool:
    """True if a key with this score has no weight next to one with a score that was computed."""
    return score <= _HIDING[0] or score == _HIDING[1]


def split_term(context: MatchContext, term: MaskTerm) -> list[MaskTerm]:
    """Reads a bias of 0 and -inf as its condition, a conjunction of conditions as its parts, a sum as its terms."""
    parts: list[MaskTerm] = []
    pending, seen = [term], set()
    while pending:
        part = pending.pop()
        if part in seen:
            continue
        seen.add(part)
        inner = _inside(context, part)
        if inner:
            pending.extend(reversed(inner))
        else:
            parts.append(part)
        if len(seen) > _MOST_PARTS:
            return [term]
    return parts


def _inside(context: MatchContext, term: MaskTerm) -> list[MaskTerm]:
    """The terms that together say what ``term`` says; empty if it is not made of others."""
    if term.fill != -math.inf or term.views or term.fewer_keys:
        return []  # finite fills add up where both parts hide a key
    node = producer(context.tensors[term.tensor])
    if term.kind is MaskKind.BIAS:
        if is_op(node, "Add"):
            return [replace(term, tensor=tensor.name) for tensor in node.inputs]
        condition = _condition(context, term)
        return [condition] if condition is not None and condition.fill == -math.inf else []
    other = MaskKind.DROP if term.kind is MaskKind.KEEP else MaskKind.KEEP
    if is_op(node, "Not"):
        return [MaskTerm(node.inputs[0].name, other)]
    if is_op(node, "And" if term.kind is MaskKind.KEEP else "Or"):
        return [MaskTerm(tensor.name, term.kind) for tensor in node.inputs]
    if is_op(node, "Expand"):
        return [MaskTerm(node.inputs[0].name, term.kind)]
    return []


def _rejoined(
    context: MatchContext, terms: tuple[MaskTerm, ...], kept: tuple[MaskTerm, ...]
) -> tuple[MaskTerm, ...]:
    """Sums of which nothing was folded are one value again."""
    result = list(kept)
    for term in terms:
        if not is_op(producer(context.tensors[term.tensor]), "Add"):
            continue
        parts = split_term(context, term)
        if len(parts) > 1 and all(part in result for part in parts):
            result[result.index(parts[0])] = term
            result = [part for part in result if part not in parts]
    return tuple(result)


def _condition(context: MatchContext, term: MaskTerm) -> MaskTerm | None:
    """Reads the bias Where(condition, 0, -inf) or Where(condition, -inf, 0), also behind a cast."""
    node = _above_casts(producer(context.tensors[term.tensor]))
    if not is_op(node, "Where") or term.factor <= 0:
        return None
    yes, no = scalar_value(node.inputs[1]), scalar_value(node.inputs[2])
    if yes == 0 and no == -math.inf:
        return MaskTerm(node.inputs[0].name, MaskKind.KEEP, no)
    if no == 0 and yes == -math.inf:
        return MaskTerm(node.inputs[0].name, MaskKind.DROP, yes)
    return None


def _above_casts(node: gs.Node | None) -> gs.Node | None:
    """The node above casts from one float to another; 0 and -inf are the same in each."""
    while is_op(node, "Cast", "CastLike"):
        node = producer(node.inputs[0])
    return node
