"""Masks of a cache with lengths of its own: the queries of a batch are the last of its keys, and see no later ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.core.origin import origin_of
from qfa_passes.core.site import Mask, MaskKind, MaskTerm
from qfa_passes.graph.dims import Dim
from qfa_passes.graph.ir import is_op, producer
from qfa_passes.match.bands import ScoreExtents
from qfa_passes.match.context import MatchContext
from qfa_passes.match.index_algebra import Linear, as_linear
from qfa_passes.match.index_values import IndexValues

_COMPARES: Final = {  # which side is the smaller one; whether equality counts
    "LessOrEqual": (0, True),
    "Less": (0, False),
    "GreaterOrEqual": (1, True),
    "Greater": (1, False),
}
_DEEPEST: Final = 8
_SEES_UP_TO: Final = ((0, -1), (1, 1))
_SEES_FROM: Final = ((0, 1), (1, -1))
_ONES: Final = (Dim.of(1),) * 3


@dataclass(frozen=True, slots=True)
class _PerBatch:
    """factor * lengths[b] + linear; ``lengths`` is the name of a list with one number per batch, or None."""

    lengths: str | None
    factor: int
    linear: Linear

    def plus(self, other: _PerBatch, sign: int) -> _PerBatch | None:
        if self.lengths and other.lengths and self.lengths != other.lengths:
            return None
        linear = self.linear.plus(other.linear.times(sign))
        factor = self.factor + sign * other.factor
        return _PerBatch(self.lengths or other.lengths, factor, linear)


def take_triangle(
    context: MatchContext,
    values: IndexValues,
    parts: Iterable[MaskTerm],
    extents: ScoreExtents,
) -> tuple[Mask, tuple[MaskTerm, ...]]:
    """Reads j <= i + n[b] - S, and a window from j > i + n[b] - S - w on, out of a mask's parts.

    Only from fused attention that was written out: there n is at most T. The operator counts places from min(n, T), so
    that a mask of a model's own, whose n may be anything, stays as it is.

    Returns:
        What was read, with n as ``kv_length``, and the parts that are left.
    """
    rest = tuple(parts)
    bounds = {part: _bound(context, values, part, extents) for part in rest}
    for part, bound in bounds.items():
        if bound is None or bound.lengths is None or bound.factor != 1:
            continue
        compare = producer(context.tensors[part.tensor])
        if compare is None or origin_of(compare.name) is None:
            continue
        if bound.linear == Linear(_SEES_UP_TO, -extents.queries):
            mask = Mask(causal=True, queries_at_end=True, kv_length=bound.lengths)
            left = [other for other in rest if other is not part]
            return _with_window(mask, left, bounds, extents)
    return Mask(), rest


def _with_window(
    mask: Mask,
    left: list[MaskTerm],
    bounds: dict[MaskTerm, _PerBatch | None],
    extents: ScoreExtents,
) -> tuple[Mask, tuple[MaskTerm, ...]]:
    for part in left:
        bound = bounds[part]
        if bound is None or (bound.lengths, bound.factor) != (mask.kv_length, -1):
            continue
        width = (bound.linear.constant - extents.queries).value
        if bound.linear.slopes == _SEES_FROM and width is not None and width >= 0:
            window = Mask(True, (), True, left_window=width, kv_length=mask.kv_length)
            return window, tuple(other for other in left if other is not part)
    return mask, tuple(left)


def _bound(
    context: MatchContext, values: IndexValues, part: MaskTerm, extents: ScoreExtents
) -> _PerBatch | None:
    """Reads a comparison of places as a number that is at least 0 where a key is seen."""
    node = producer(context.tensors[part.tensor])
    plain = part.kind is MaskKind.KEEP and not part.views and not part.fewer_keys
    shape = context.shapes.shape(context.tensors[part.tensor])
    if not plain or part.fill != -np.inf or extents.batch is None or shape is None:
        return None
    wanted = (extents.batch, Dim.of(1), extents.queries, extents.keys)
    if not is_op(node, *_COMPARES) or shape != wanted:
        return None
    first, equal = _COMPARES[node.op]
    high = _read(context, values, node.inputs[1 - first], 0)
    low = _read(context, values, node.inputs[first], 0)
    result = None if high is None or low is None else high.plus(low, -1)
    if result is None:
        return None
    slack = Linear((), Dim.of(0 if equal else -1))
    return _PerBatch(result.lengths, result.factor, result.linear.plus(slack))


def _read(
    context: MatchContext, values: IndexValues, tensor: gs.Tensor, depth: int
) -> _PerBatch | None:
    """Reads places, or sums of them with a list (B) that stands along the first of four axes."""
    known = values.value(tensor)
    linear = None if known is None else as_linear(known)
    if linear is not None:
        return _PerBatch(None, 0, linear)
    node = producer(tensor)
    if depth > _DEEPEST or node is None or node.domain:
        return None
    if node.op in ("Unsqueeze", "Reshape"):
        shape, source = context.shapes.shape(tensor), context.shapes.shape(node.inputs[0])
        if shape is None or source is None or len(source) != 1 or shape != (*source, *_ONES):
            return None
        return _list(context, values, node.inputs[0], 0)
    if node.op in ("Add", "Sub"):
        left, right = (_read(context, values, side, depth + 1) for side in node.inputs)
        if left is None or right is None:
            return None
        return left.plus(right, 1 if node.op == "Add" else -1)
    return None


def _list(
    context: MatchContext, values: IndexValues, tensor: gs.Tensor, depth: int
) -> _PerBatch | None:
    """Reads a list (B), or one with the same length taken from each of its numbers."""
    node = producer(tensor)
    if is_op(node, "Sub") and depth < _DEEPEST:
        known = values.value(node.inputs[1])
        shift = None if known is None else as_linear(known)
        if shift is not None and not shift.slopes:
            inner = _list(context, values, node.inputs[0], depth + 1)
            return None if inner is None else inner.plus(_PerBatch(None, 0, shift), -1)
    if tensor.dtype != np.int64 or context.shapes.rank(tensor) != 1:
        return None
    return _PerBatch(tensor.name, 1, Linear((), Dim.of(0)))
