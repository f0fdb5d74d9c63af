"""Attention sinks: one more column of scores before the softmax, whose weight is dropped after it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.graph.dims import Dim, product
from qfa_passes.graph.ir import is_op, producer
from qfa_passes.match.atoms import extent_of, flat
from qfa_passes.match.context import MatchContext, MatchFailure
from qfa_passes.match.placing import ScoreLayout
from qfa_passes.match.row_shift import shifted_input
from qfa_passes.match.views import axes_below, operand_chain

_ENDLESS = np.iinfo(np.int32).max


@dataclass(frozen=True, slots=True)
class Sink:
    """A column next to the scores.

    Attributes:
        tensor: Name of the column.
        first: It stands in front of the scores, not behind.
        width: Extent of scores and column together.
        nodes: From the softmax up to the Concat.
    """

    tensor: str
    first: bool
    width: Dim
    nodes: tuple[gs.Node, ...]


def read_sink(context: MatchContext, tensor: gs.Tensor) -> tuple[gs.Tensor, Sink | None]:
    """Looks for Concat(scores, column) right before the softmax; returns the scores and the column, if there is one."""
    nodes: list[gs.Node] = []
    value, aside = tensor, None
    while True:
        node = producer(value)
        shifted = shifted_input(context, node) if is_op(node, "Sub") else None
        if shifted is not None and aside is None:
            nodes.append(shifted[1])
            nodes.append(node)
            value, aside = shifted
        elif is_op(node, "Cast", "Identity"):
            nodes.append(node)
            value = node.inputs[0]
        else:
            break
    shape = context.shapes.shape(value)
    if not is_op(node, "Concat") or shape is None or len(node.inputs) != 2:
        return tensor, None
    if int(node.attrs["axis"]) not in (-1, len(shape) - 1):
        return tensor, None
    context.only_consumer(value, "score matrix", aside=aside)
    for position, column in enumerate(node.inputs):
        extents = context.shapes.shape(column)
        if extents is not None and extents[-1] == 1 and not _from_product(column):
            first = position == 0
            return node.inputs[int(first)], Sink(column.name, first, shape[-1], (*nodes, node))
    return tensor, None


def _from_product(column: gs.Tensor) -> bool:
    node = producer(column)
    return is_op(node, "MatMul", "Mul", "Div", "Add", "Where")


def drops_sink(context: MatchContext, node: gs.Node, sink: Sink) -> None:
    """Checks that a Slice takes the column, and nothing else, away."""
    rank = context.shapes.rank(node.inputs[0]) or 0
    start, end, axis, step = (_single(context, node, position) for position in (1, 2, 3, 4))
    along = axis is not None and axis.value in (-1, rank - 1)
    if along and (step == 1 or len(node.inputs) < 5) and start is not None and end is not None:
        if sink.first:
            rest = end == sink.width or (end.value is not None and end.value >= _ENDLESS)
            along = start == 1 and rest
        else:
            along = start == 0 and (end == -1 or end == sink.width - Dim.of(1))
        if along:
            return
    raise MatchFailure(
        f"node '{node.name}' does not take away the weight of the sink '{sink.tensor}' alone"
    )


def _single(context: MatchContext, node: gs.Node, position: int) -> Dim | None:
    """The one number in an input of a node, or None."""
    if len(node.inputs) <= position or not node.inputs[position].name:
        return None
    content = context.shapes.content(node.inputs[position])
    return content.items[0] if content is not None and len(content.items) == 1 else None


def sink_per_head(context: MatchContext, sink: Sink, layout: ScoreLayout, rank: int) -> str:
    """Name of a value of H elements that the column spreads over batch and queries; raises MatchFailure."""
    tensor = context.tensors[sink.tensor]
    steps = operand_chain(tensor, context.shapes, scaled=False)
    for height in range(len(steps), -1, -1):
        if any(step.qdq is not None or step.node.op == "Cast" for step in steps[:height]):
            continue
        top = steps[height - 1].upper if height else tensor
        extents = context.shapes.shape(top)
        axes = axes_below(tensor, steps[:height], context.shapes)
        if axes is None or extents is None or len(axes) != 4 or rank != 4:
            continue
        if product(extents) != layout.heads or extent_of(axes[1]) != layout.heads:
            continue
        heads = flat((axes[1],))
        if list(heads) != sorted(heads, key=lambda atom: (atom.source or 0, atom.part)):
            continue  # another order of heads than that of the value
        others = flat((axes[0], axes[2], axes[3]))
        if all(atom.source is not None for atom in heads) and all(
            atom.source is None for atom in others
        ):
            return str(top.name)
    raise MatchFailure(f"the sink '{sink.tensor}' is not one number per head")
