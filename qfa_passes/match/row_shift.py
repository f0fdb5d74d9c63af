"""Subtracting its maximum from each row of scores, which changes no weight."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from qfa_passes.graph.constants import constant_value
from qfa_passes.graph.dims import Dim
from qfa_passes.graph.ir import is_op, producer
from qfa_passes.match.context import MatchContext


def shifted_input(context: MatchContext, node: gs.Node) -> tuple[gs.Tensor, gs.Node] | None:
    """Reads Sub(x, ReduceMax(x, -1)), where the lost axis may be put back; returns x and the node of the maximum."""
    source, peak = node.inputs
    extents = context.shapes.shape(source)
    if not is_op(node, "Sub") or not extents:
        return None
    if context.shapes.shape(peak) != (*extents[:-1], Dim.of(1)):
        return None
    while True:
        if len(peak.outputs) != 1 or peak.name in context.outputs:
            return None
        reduce = producer(peak)
        if is_op(reduce, "ReduceMax"):
            right = reduce.inputs[0] is source and _last_axis(context, reduce)
            return (source, reduce) if right else None
        if not is_op(reduce, "Unsqueeze", "Reshape", "Identity"):
            return None
        peak = reduce.inputs[0]


def over_last_axis(context: MatchContext, reduce: gs.Node) -> bool:
    """True if a reduction runs over the last axis and keeps it."""
    return bool(reduce.attrs.get("keepdims", 1)) and _last_axis(context, reduce)


def _last_axis(context: MatchContext, reduce: gs.Node) -> bool:
    axes = reduce.attrs.get("axes")
    if axes is None and len(reduce.inputs) > 1 and reduce.inputs[1].name:
        value = constant_value(reduce.inputs[1])
        axes = None if value is None else value.reshape(-1).tolist()
    rank = context.shapes.rank(reduce.inputs[0])
    return rank is not None and axes in ([-1], [rank - 1])
