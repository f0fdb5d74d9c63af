"""What a mask says: a bool behind a bias, a causal triangle, or nothing at all."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from qfa_passes.core.site import Mask, MaskKind, MaskTerm
from qfa_passes.graph.constants import scalar_value
from qfa_passes.graph.dims import Dim
from qfa_passes.graph.ir import is_op, producer
from qfa_passes.match.context import MatchContext
from qfa_passes.match.probe import probe_values
from qfa_passes.match.scores import MASKING


class Verdict(Enum):
    """What probing a mask at several lengths and inputs showed."""

    OPAQUE = auto()  # keep the tensor
    CAUSAL = auto()  # exactly the causal triangle in every run: the tensor is not needed
    WITHIN_CAUSAL = auto()  # never lets a query see a later key: keep the tensor, skip later keys
    OPEN = auto()  # masks nothing in any run


@dataclass(frozen=True, slots=True)
class ScoreExtents:
    """Symbolic S and T of the scores that a mask applies to."""

    queries: Dim
    keys: Dim


def resolve_masks(context: MatchContext, terms: tuple[MaskTerm, ...], extents: ScoreExtents) -> Mask:
    """Simplifies mask terms and folds those that are exactly causal or open."""
    causal, kept = False, []
    for term in terms:
        simple = _behind_bias(term, context.tensors)
        verdict = _verdict(context, simple, extents)
        causal |= verdict in (Verdict.CAUSAL, Verdict.WITHIN_CAUSAL)
        if verdict in (Verdict.OPAQUE, Verdict.WITHIN_CAUSAL):
            kept.append(simple)
    return Mask(causal, tuple(dict.fromkeys(kept)))


def _behind_bias(term: MaskTerm, tensors: dict[str, gs.Tensor]) -> MaskTerm:
    """Reads the bias Where(condition, 0, fill) as its condition."""
    if term.kind is not MaskKind.BIAS:
        return term
    node = producer(tensors[term.tensor])
    if node is None or not is_op(node, "Where"):
        return term
    yes, no = scalar_value(node.inputs[1]), scalar_value(node.inputs[2])
    if yes == 0 and no == float("-inf"):
        return MaskTerm(node.inputs[0].name, MaskKind.KEEP)
    if no == 0 and yes == float("-inf"):
        return MaskTerm(node.inputs[0].name, MaskKind.DROP)
    return term


def _verdict(context: MatchContext, term: MaskTerm, extents: ScoreExtents) -> Verdict:
    key = f"{term.kind}:{term.fill}:{term.tensor}:{extents.queries}:{extents.keys}"
    cached = context.mask_cache.get(key)
    if not isinstance(cached, Verdict):
        cached = _judge(context, term, context.tensors[term.tensor], extents)
        context.mask_cache[key] = cached
    return cached


def _judge(context: MatchContext, term: MaskTerm, tensor: gs.Tensor, extents: ScoreExtents) -> Verdict:
    exact = within = everything = True
    probes = probe_values(context.graph, context.shapes, tensor, (extents.queries, extents.keys))
    if probes is None:
        return Verdict.OPAQUE
    for value, (queries, keys) in probes:
        visible = _visible(term, value)
        if visible is None or not _broadcasts(visible.shape, queries, keys):
            return Verdict.OPAQUE
        triangle = np.tri(queries, keys, dtype=bool)
        full = np.broadcast_to(visible, np.broadcast_shapes(visible.shape, triangle.shape))
        exact &= bool(np.all(full == triangle))
        within &= not np.any(full & ~triangle)
        everything &= bool(np.all(full))
    if exact:
        return Verdict.CAUSAL
    if everything:
        return Verdict.OPEN
    # Cutting later keys changes a fully masked row where the fill is finite (a mean over fewer keys).
    if within and term.kind is not MaskKind.BIAS and term.fill == float("-inf"):
        return Verdict.WITHIN_CAUSAL
    return Verdict.OPAQUE


def _visible(term: MaskTerm, value: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_] | None:
    if term.kind is MaskKind.BIAS:
        if not np.all((value == 0) | (value <= MASKING)):
            return None
        return np.asarray(value == 0)
    if value.dtype != np.bool_:
        return None
    return np.asarray(value if term.kind is MaskKind.KEEP else ~value)


def _broadcasts(shape: tuple[int, ...], queries: int, keys: int) -> bool:
    tail = ((1,) * 4 + shape)[-2:]
    return tail[0] in (1, queries) and tail[1] in (1, keys)

