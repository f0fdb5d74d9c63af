"""A floor under masked scores moves to the masks, where it belongs."""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.core.passes import Contract
from qfa_passes.graph.constants import constant_value, scalar_value
from qfa_passes.graph.edit import emit, replace_uses
from qfa_passes.graph.graph_pass import GraphPass
from qfa_passes.graph.ir import Graph, is_op, producer
from qfa_passes.normalize.near_softmax import near_softmax

_FLOOR: Final = -1e30
"""No score that a model computes is below this, and none shows in a sum with it."""
_HALF_FLOOR: Final = -65504.0
"""The lowest number in half precision, which is as good as that."""


class MoveFloors(GraphPass):
    """Keeps sums of masks finite, so that a row without a key is the mean of V.

    Before: ``y = Add(s, m)``, ``z = Max(y, -3.4e38)``, ``p = Softmax(z)``.
    After: ``f = Max(m, -3.4e38)``, ``z = Add(s, f)``, ``p = Softmax(z)``.
    """

    name: ClassVar[str] = "move-floors"
    contract: ClassVar[Contract] = Contract.EXACT

    def run(self, graph: Graph) -> int:
        """Moves the floor under every sum of scores and a mask."""
        near = near_softmax(graph, lambda node: _floored(node) is not None)
        return sum(_move(graph, node) for node in graph.nodes if id(node) in near)


def _floored(node: gs.Node) -> tuple[gs.Tensor, gs.Tensor] | None:
    """Reads Max(x, c) or Clip(x, c) with a very low c; returns x and c."""
    if is_op(node, "Clip") and len(node.inputs) > 1 and not any(t.name for t in node.inputs[2:]):
        pairs = [(node.inputs[0], node.inputs[1])]
    elif is_op(node, "Max") and len(node.inputs) == 2:
        pairs = [(node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])]
    else:
        return None
    for value, floor in pairs:
        number = constant_value(floor)
        if (
            number is None or number.size != 1 or number.ndim > 1
        ):  # more axes would be new ones of the scores
            continue
        if float(number.reshape(())[()]) <= (_HALF_FLOOR if number.dtype == np.float16 else _FLOOR):
            return value, floor
    return None


def _move(graph: Graph, node: gs.Node) -> bool:
    read = _floored(node)
    assert read is not None
    value, floor = read
    output = node.outputs[0]
    if any(end is output for end in graph.gs.outputs) or graph.is_captured(output):
        return False
    if not _is_product(value):
        place = _mask_of(graph, value)
        if place is None:
            return False
        total, side = place
        mask, number = total.inputs[side], scalar_value(floor)
        assert number is not None
        if not _never_below(mask, number):
            lifted = emit(graph, "Max", [mask, floor], f"{node.name}_moved", dtype=mask.dtype)
            lifted.shape = mask.shape
            total.inputs[side] = lifted
    replace_uses(output, value)
    node.outputs.clear()
    return True


def _mask_of(graph: Graph, value: gs.Tensor) -> tuple[gs.Node, int] | None:
    """The one addition between the product and a value, and which of its inputs is the mask."""
    total = producer(value)
    alone = len(value.outputs) == 1 and not any(end is value for end in graph.gs.outputs)
    if not is_op(total, "Add") or not alone or graph.is_captured(value):
        return None
    sides = [side for side in (0, 1) if _is_product(_unshaped(total.inputs[1 - side]))]
    return (total, sides[0]) if len(sides) == 1 else None


def _unshaped(value: gs.Tensor) -> gs.Tensor:
    node = producer(value)
    while is_op(node, "Reshape") and len(value.outputs) == 1:
        value = node.inputs[0]
        node = producer(value)
    return value


def _never_below(mask: gs.Tensor, floor: float) -> bool:
    """True if a mask selects between two numbers that are not below the floor."""
    node = producer(mask)
    while is_op(node, "Expand", "Unsqueeze", "Slice", "Identity"):
        node = producer(node.inputs[0])
    if not is_op(node, "Where"):
        return False
    numbers = [scalar_value(tensor) for tensor in node.inputs[1:]]
    return all(number is not None and number >= floor for number in numbers)


def _is_product(value: gs.Tensor) -> bool:
    """True for a MatMul, or one times a number, that nothing else reads."""
    node = producer(value)
    while is_op(node, "Mul", "Div") and len(value.outputs) == 1:
        sources = [tensor for tensor in node.inputs if scalar_value(tensor) is None]
        if len(sources) != 1 or (node.op == "Div" and sources[0] is not node.inputs[0]):
            return False
        value = sources[0]
        node = producer(value)
    return is_op(node, "MatMul") and len(value.outputs) == 1
