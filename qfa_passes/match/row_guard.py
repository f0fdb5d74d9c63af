"""The guard of fully masked rows: Where(ReduceMax(bias, -1) == -inf, 0, weights).

A row whose keys all have the bias -inf would be NaN after the softmax; the guard makes it zero, which is what the
operator gives for a row that sees no key. It is the same row only if the guard looks at a bias of these very scores.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from qfa_passes.core.site import MaskKind
from qfa_passes.graph.ir import is_op, producer
from qfa_passes.match.atoms import Axes, same_axes
from qfa_passes.match.context import MatchContext, MatchFailure
from qfa_passes.match.row_shift import over_last_axis
from qfa_passes.match.scalars import fixed_scalar
from qfa_passes.match.scores import Scores


def row_guard(
    context: MatchContext, weights: gs.Tensor, axes: Axes, scores: Scores
) -> gs.Node | None:
    """The Where that guards ``weights``; None if they are not guarded in this way.

    Args:
        context: The graph.
        weights: Output of the softmax, or a view of it.
        axes: What the axes of the weights are, in atoms of the QK^T product's axes.
        scores: What the softmax reads.

    Raises:
        MatchFailure: The guard looks at something that is no bias of these scores.
    """
    if weights.name in context.outputs:
        return None
    readers = {id(node): node for node in weights.outputs}.values()
    guards = [node for node in readers if not _asks_type_only(node, weights)]
    if len(guards) != 1 or not is_op(guards[0], "Where") or guards[0].inputs[2] is not weights:
        return None
    where = guards[0]
    asking = [node for node in readers if node is not where]
    if any(
        node.outputs[0] is not where.inputs[1] or len(node.outputs[0].outputs) != 1
        for node in asking
    ):
        return None
    if fixed_scalar(where.inputs[1], context.shapes) != 0:
        return None
    bias = _fully_masked(context, where.inputs[0])
    if bias is None:
        return None
    added = [mask for mask in scores.masks if mask.term.tensor == bias.name]
    if not any(
        mask.term.kind is MaskKind.BIAS and mask.term.factor > 0 and same_axes(mask.axes, axes)
        for mask in added
    ):
        raise MatchFailure(
            f"node '{where.name}' clears the rows that '{bias.name}' masks, not added to these rows of the scores"
        )
    return where


def _asks_type_only(node: gs.Node, tensor: gs.Tensor) -> bool:
    return is_op(node, "CastLike") and node.inputs[0] is not tensor and node.inputs[1] is tensor


def _fully_masked(context: MatchContext, condition: gs.Tensor) -> gs.Tensor | None:
    """Reads ReduceMax(bias, -1) == -inf; returns the bias."""
    equal = producer(condition)
    if not is_op(equal, "Equal"):
        return None
    for highest, infinity in (equal.inputs, equal.inputs[::-1]):
        reduce = producer(highest)
        if fixed_scalar(infinity, context.shapes) == float("-inf") and is_op(reduce, "ReduceMax"):
            return reduce.inputs[0] if over_last_axis(context, reduce) else None
    return None
