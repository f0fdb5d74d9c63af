"""Subtracting its maximum from each row of scores, which changes no weight."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from qfa_passes.graph.constants import constant_value
from qfa_passes.graph.ir import is_op, producer
from qfa_passes.match.context import MatchContext


def shifted_input(context: MatchContext, node: gs.Node) -> tuple[gs.Tensor, gs.Node] | None:
    """Reads Sub(x, ReduceMax(x, -1)); returns x and the node of the maximum."""
    source, peak = node.inputs
    reduce = producer(peak)
    if not is_op(node, "Sub") or not is_op(reduce, "ReduceMax") or reduce.inputs[0] is not source:
        return None
    if len(reduce.outputs[0].outputs) != 1 or peak.name in context.outputs:
        return None
    return (source, reduce) if over_last_axis(context, reduce) else None


def over_last_axis(context: MatchContext, reduce: gs.Node) -> bool:
    """True if a reduction runs over the last axis and keeps it."""
    axes = reduce.attrs.get("axes")
    if axes is None and len(reduce.inputs) > 1 and reduce.inputs[1].name:
        value = constant_value(reduce.inputs[1])
        axes = None if value is None else value.reshape(-1).tolist()
    rank = context.shapes.rank(reduce.inputs[0])
    return bool(reduce.attrs.get("keepdims", 1)) and rank is not None and axes in ([-1], [rank - 1])
