"""A mask that shows the first n keys of each batch: j < n[b], with n given to the model or computed by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.core.site import Mask, MaskKind, MaskTerm
from qfa_passes.core.view import View, ViewOp, Views, apply_views
from qfa_passes.graph.constants import constant_value
from qfa_passes.graph.dims import Dim
from qfa_passes.graph.ir import is_op, producer
from qfa_passes.match.context import MatchContext
from qfa_passes.match.index_algebra import Linear
from qfa_passes.match.index_values import IndexValues

_KEY: Final = Linear(((0, 1),), Dim.of(0))
_INTEGERS: Final = (np.int64, np.int32)
_BATCHES, _KEYS = 7, 5
"""Extents that tell axes apart."""


def with_lengths(context: MatchContext, mask: Mask, keys: Dim, values: IndexValues) -> Mask:
    """The mask with those of its terms as ``kv_length`` that say just that.

    Where queries stand at the end the operator counts from the end of these lengths, so that such a mask gets none.
    Lengths below 0 or above T need no care: the operator takes them as 0 and T, as the comparison does.
    """
    terms, length = [], mask.kv_length
    for term in mask.terms:
        found = _lengths_of(context, term, keys, values)
        if found is not None and (found == length or (length is None and not mask.queries_at_end)):
            length = found
        else:
            terms.append(term)
    return replace(mask, kv_length=length, terms=tuple(terms))


def _lengths_of(
    context: MatchContext, term: MaskTerm, keys: Dim, values: IndexValues
) -> str | None:
    """Name of n (B), if the term says j < n[b]."""
    if term.kind is MaskKind.BIAS or term.fill != float("-inf") or term.fewer_keys:
        return None
    tensor, views = _above_axes(context.tensors[term.tensor], term.views)
    node, shape = producer(tensor), context.shapes.shape(tensor)
    if node is None or not shape or shape[-1] != keys:
        return None
    compared = {
        (MaskKind.KEEP, "Less"): (0, 1),
        (MaskKind.KEEP, "Greater"): (1, 0),
        (MaskKind.DROP, "GreaterOrEqual"): (0, 1),
        (MaskKind.DROP, "LessOrEqual"): (1, 0),
    }
    places = compared.get((term.kind, node.op)) if not node.domain else None
    if places is None:
        return None
    index, bound = (node.inputs[place] for place in places)
    if values.value(index) != _KEY or context.shapes.shape(index) is None:
        return None
    lengths = _vector(bound)
    own, count = context.shapes.shape(bound), context.shapes.shape(lengths)
    if own is None or count is None or len(count) != 1 or lengths.dtype not in _INTEGERS:
        return None
    axes = [axis for axis, extent in enumerate(reversed(own)) if extent != 1]
    return lengths.name if _of_batches(axes, len(shape), views) else None


def _above_axes(tensor: gs.Tensor, views: Views) -> tuple[gs.Tensor, Views]:
    """The value above new axes, which become views."""
    node = producer(tensor)
    while is_op(node, "Unsqueeze") and len(node.inputs) > 1:
        axes = constant_value(node.inputs[1])
        if axes is None:
            break
        numbers = tuple(int(axis) for axis in axes.reshape(-1))
        tensor, views = node.inputs[0], (View(ViewOp.UNSQUEEZE, numbers), *views)
        node = producer(tensor)
    return tensor, views


def _vector(tensor: gs.Tensor) -> gs.Tensor:
    """The value above new axes and casts from one integer to another."""
    node = producer(tensor)
    while is_op(node, "Unsqueeze", "Cast") and node.outputs[0].dtype in _INTEGERS:
        if node.inputs[0].dtype not in _INTEGERS:
            break
        tensor = node.inputs[0]
        node = producer(tensor)
    return tensor


def _of_batches(axes: list[int], rank: int, views: Views) -> bool:
    """True if a value with this one axis, counted from the last, has it as the first of (B, 1, 1, T) after views."""
    if len(axes) > 1 or 0 in axes or any(view.op is not ViewOp.UNSQUEEZE for view in views):
        return False
    extents = [1] * rank
    extents[-1] = _KEYS
    for axis in axes:
        extents[rank - 1 - axis] = _BATCHES
    shape = [1] * 4 + list(apply_views(np.empty(extents), _counted(views, rank)).shape)
    return shape[-4:] == [_BATCHES if axes else 1, 1, 1, _KEYS]


def _counted(views: Views, rank: int) -> Views:
    """New axes counted from the first."""
    result = []
    for view in views:
        rank += len(view.numbers)
        result.append(replace(view, numbers=tuple(axis % rank for axis in view.numbers)))
    return tuple(result)
