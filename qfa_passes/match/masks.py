"""What a mask says: a bool behind a bias, a causal triangle, or nothing at all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

import numpy as np
import numpy.typing as npt

from qfa_passes.core.site import Mask, MaskKind, MaskTerm
from qfa_passes.graph.constants import constant_value, scalar_value
from qfa_passes.graph.dims import Dim
from qfa_passes.graph.ir import is_op, producer
from qfa_passes.match.context import MatchContext
from qfa_passes.match.probe import probe_mask

_MOST_PARTS: Final = 16
_HIDING: Final = (-1e9, float(np.finfo(np.float16).min))
"""A score at or below the first, or equal to the second, is out of reach of every score that a model computes."""


OPEN: Final = Mask()
"""A mask that hides nothing."""


class Verdict(Enum):
    """What a mask does in every run."""

    OPAQUE = auto()  # depends on inputs, or is none of the below: keep the tensor
    CAUSAL = auto()  # the causal triangle, -inf elsewhere
    SOFT_CAUSAL = auto()  # the causal triangle, a finite number elsewhere
    OPEN = auto()  # masks nothing


@dataclass(frozen=True, slots=True)
class ScoreExtents:
    """Symbolic S and T of the scores that a mask applies to."""

    queries: Dim
    keys: Dim


def resolve_masks(
    context: MatchContext,
    terms: tuple[MaskTerm, ...],
    extents: ScoreExtents,
    base: Mask = OPEN,
) -> Mask:
    """Simplifies mask terms and folds those that are exactly causal or open into ``base``."""
    parts = dict.fromkeys(part for term in terms for part in split_term(context, term))
    judged = [(part, _verdict(context, part, extents)) for part in parts]
    effective = [(part, verdict) for part, verdict in judged if verdict is not Verdict.OPEN]
    triangles = (Verdict.CAUSAL, Verdict.SOFT_CAUSAL)
    # Where another mask hides all that a row sees of a soft triangle, the later keys come out on top: keep the tensor.
    alone = all(verdict in triangles for _, verdict in effective)
    causal, kept = False, []
    for part, verdict in effective:
        if verdict is Verdict.CAUSAL or (verdict is Verdict.SOFT_CAUSAL and alone):
            causal = True
        else:
            kept.append(part)
    return replace(base, causal=base.causal or causal, terms=tuple(kept))


def split_term(context: MatchContext, term: MaskTerm) -> list[MaskTerm]:
    """Reads a bias of 0 and -inf as its condition, and a conjunction of conditions as its parts."""
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
    if term.fill != float("-inf"):
        return []  # finite fills add up where both parts hide a key
    node = producer(context.tensors[term.tensor])
    if term.kind is MaskKind.BIAS:
        condition = _condition(context, term)
        return [condition] if condition is not None and condition.fill == float("-inf") else []
    other = MaskKind.DROP if term.kind is MaskKind.KEEP else MaskKind.KEEP
    if is_op(node, "Not"):
        return [MaskTerm(node.inputs[0].name, other)]
    if is_op(node, "And" if term.kind is MaskKind.KEEP else "Or"):
        return [MaskTerm(tensor.name, term.kind) for tensor in node.inputs]
    if is_op(node, "Expand"):
        return [MaskTerm(node.inputs[0].name, term.kind)]
    return []


def _condition(context: MatchContext, term: MaskTerm) -> MaskTerm | None:
    """Reads the bias Where(condition, 0, fill) or Where(condition, fill, 0)."""
    node = producer(context.tensors[term.tensor])
    if not is_op(node, "Where"):
        return None
    yes, no = scalar_value(node.inputs[1]), scalar_value(node.inputs[2])
    if yes == 0 and no is not None and hides(no):
        return MaskTerm(node.inputs[0].name, MaskKind.KEEP, no)
    if no == 0 and yes is not None and hides(yes):
        return MaskTerm(node.inputs[0].name, MaskKind.DROP, yes)
    return None


def hides(score: float) -> bool:
    """True if a key with this score has no weight next to one with a score that was computed."""
    return score <= _HIDING[0] or score == _HIDING[1]


def _verdict(context: MatchContext, term: MaskTerm, extents: ScoreExtents) -> Verdict:
    key = (term, extents.queries, extents.keys)
    cached = context.mask_cache.get(key)
    if not isinstance(cached, Verdict):
        condition = _condition(context, term) if term.kind is MaskKind.BIAS else None
        cached = _judge(context, condition or term, extents)
        context.mask_cache[key] = cached
    return cached


def _judge(context: MatchContext, term: MaskTerm, extents: ScoreExtents) -> Verdict:
    tensor = context.tensors[term.tensor]
    constant = constant_value(tensor)
    if (
        constant is not None
    ):  # a table says nothing about other lengths, unless it says the same everywhere
        read = _visible(term, constant)
        return Verdict.OPEN if read is not None and read[0].all() else Verdict.OPAQUE
    probes = probe_mask(context.graph, context.shapes, tensor, extents.queries, extents.keys)
    exact = everything = True
    soft = term.kind is not MaskKind.BIAS and term.fill != float("-inf")
    for probe in probes or ():
        read = _visible(term, probe.value)
        if read is None or not _broadcasts(read[0].shape, probe.queries, probe.keys):
            return Verdict.OPAQUE
        visible, finite = read
        triangle = np.tri(probe.queries, probe.keys, dtype=bool)
        full = np.broadcast_to(visible, np.broadcast_shapes(visible.shape, triangle.shape))
        exact &= bool(np.all(full == triangle))
        everything &= bool(np.all(full))
        soft |= finite
    if not probes or not (exact or everything):
        return Verdict.OPAQUE
    if everything:
        return Verdict.OPEN
    return Verdict.SOFT_CAUSAL if soft else Verdict.CAUSAL


def _visible(
    term: MaskTerm, value: npt.NDArray[np.generic]
) -> tuple[npt.NDArray[np.bool_], bool] | None:
    """Which scores a mask leaves as they are, and whether it puts finite numbers on the others; None if unclear."""
    if term.kind is MaskKind.BIAS:
        if value.dtype.kind != "f":
            return None
        bias = value.astype(np.float64)
        open_ = bias == 0
        hidden = (bias <= _HIDING[0]) | (bias == _HIDING[1])
        return (open_, bool(np.isfinite(bias[hidden]).any())) if np.all(open_ | hidden) else None
    if value.dtype != np.bool_ or not hides(term.fill):
        return None
    keep = np.asarray(value, dtype=np.bool_)
    return (keep if term.kind is MaskKind.KEEP else ~keep), False


def _broadcasts(shape: tuple[int, ...], queries: int, keys: int) -> bool:
    tail = ((1,) * 2 + shape)[-2:]
    return tail[0] in (1, queries) and tail[1] in (1, keys)
