"""What a mask says: a band of keys that an attribute can say too, a bool behind a bias, or nothing at all."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.core.site import Mask, MaskKind, MaskTerm
from qfa_passes.core.view import View, ViewOp
from qfa_passes.graph.constants import constant_value, scalar_value
from qfa_passes.graph.ir import is_op, producer
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
from qfa_passes.match.element_types import is_float
from qfa_passes.match.index_algebra import ALWAYS, NEVER, Choice, Truth, linears_of
from qfa_passes.match.index_values import IndexValues
from qfa_passes.match.key_lengths import with_lengths

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
    counts = Counter(part for term in terms for part in split_term(context, term))
    parts = tuple(dict.fromkeys(_repeated(part, times) for part, times in counts.items()))
    if base == OPEN:
        base, parts = take_triangle(context, _index_values(context), parts, extents)
    seen = {part: _visible(context, part, extents) for part in parts}
    ways = [(at_end, _fold(parts, seen, extents, at_end, base)) for at_end in _alignments(base)]
    at_end, best = max(ways, key=lambda way: (way[1].folded, way[1].band.right == 0))
    band = band_in(base).narrowed(best.band)
    kept = _rejoined(context, terms, best.kept)
    mask = replace(with_band(base, band, at_end=at_end), terms=kept)
    return with_lengths(context, mask, extents.keys, _index_values(context))


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
    value = _index_values(context).value(tensor)
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
    pending, seen = [term], list[MaskTerm]()
    while pending:
        part = pending.pop()
        if part in seen and part.kind is not MaskKind.BIAS:
            continue
        seen.append(part)
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
    if term.fill != -math.inf:
        return []  # finite fills add up where both parts hide a key
    node = producer(context.tensors[term.tensor])
    if term.kind is MaskKind.BIAS:
        condition = _condition(context, term)
        if condition is not None:
            return [condition]
    if term.views or term.fewer_keys:
        return []
    if term.kind is MaskKind.BIAS:
        if is_op(node, "Add"):
            return [replace(term, tensor=tensor.name) for tensor in node.inputs]
        short = _short(context, term)
        return [] if short is None else [short]
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
    """Sums of which nothing was folded or read as a condition are one value again."""
    result = list(kept)
    for term in terms:
        if not is_op(producer(context.tensors[term.tensor]), "Add"):
            continue
        parts = split_term(context, term)
        plain = all(replace(part, tensor=term.tensor) == term for part in parts)
        if len(parts) > 1 and plain and all(part in result for part in parts):
            result[result.index(parts[0])] = term
            result = [part for part in result if part not in parts]
    return tuple(result)


def _condition(context: MatchContext, term: MaskTerm) -> MaskTerm | None:
    """Reads the bias Where(condition, 0, -inf) or Where(condition, -inf, 0), also behind casts and new axes."""
    node, views = producer(context.tensors[term.tensor]), list(term.views)
    while is_op(node, "Cast", "CastLike", "Unsqueeze", "Expand"):
        if not is_float(node.outputs[0]):  # -inf is lost
            return None
        if node.op == "Expand" and views and not _same_rank(context, node):
            return None
        if node.op == "Unsqueeze":
            axes = None if len(node.inputs) < 2 else constant_value(node.inputs[1])
            if axes is None:
                return None
            views.insert(0, View(ViewOp.UNSQUEEZE, tuple(int(axis) for axis in axes.reshape(-1))))
        node = producer(node.inputs[0])
    if not is_op(node, "Where") or term.factor <= 0:
        return None
    yes, no = scalar_value(node.inputs[1]), scalar_value(node.inputs[2])
    kind = MaskKind.KEEP if (yes, no) == (0, -math.inf) else None
    kind = MaskKind.DROP if (yes, no) == (-math.inf, 0) else kind
    if kind is None:
        return None
    return MaskTerm(node.inputs[0].name, kind, views=tuple(views), fewer_keys=term.fewer_keys)


def _same_rank(context: MatchContext, node: gs.Node) -> bool:
    rank = context.shapes.rank(node.inputs[0])
    return rank is not None and rank == context.shapes.rank(node.outputs[0])


def _short(context: MatchContext, term: MaskTerm) -> MaskTerm | None:
    """Reads a bias that was padded with -inf up to the number of keys."""
    node = producer(context.tensors[term.tensor])
    if not is_op(node, "Pad") or node.attrs.get("mode", "constant") != "constant":
        return None
    if len(node.inputs) < 3 or not node.inputs[2].name or term.factor <= 0:
        return None
    source, output = context.shapes.shape(node.inputs[0]), context.shapes.shape(node.outputs[0])
    fill = _index_values(context).value(node.inputs[2])
    if fill != -math.inf or source is None or output is None or len(source) != len(output):
        return None
    if source[:-1] != output[:-1] or not (output[-1] - source[-1]).non_negative:
        return None
    pads = context.shapes.content(node.inputs[1])
    before = () if pads is None else pads.items[: len(pads.items) // 2]
    if not before or any(pad != 0 for pad in before):
        return None
    return replace(term, tensor=node.inputs[0].name, fewer_keys=True)
