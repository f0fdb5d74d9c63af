"""Shapes are asked of the values above, so that nothing is computed for its shape alone."""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.core.passes import Contract
from qfa_passes.graph.edit import emit, replace_uses
from qfa_passes.graph.graph_pass import GraphPass
from qfa_passes.graph.ir import Graph, is_op, producer
from qfa_passes.graph.shapes import ShapeMap, infer_shapes

_MOST_NODES: Final = 32
_STEPS: Final = 8
_KEEPING: Final = (
    *("Add", "Sub", "Mul", "Div", "Max", "Min", "Where"),
    *("Softmax", "Cast", "Identity", "Dropout", "Tanh", "Clip", "IsNaN"),
)


class RaiseShapes(GraphPass):
    """Shape of scores or weights becomes shape of Q and K.

    Before: ``x = MatMul(q, kt)``, ``y = Add(x, m)``, ``p = Softmax(y)``, ``s = Shape(p)``.
    After: ``a = Shape<end = -1>(q)``, ``b = Shape<start = -1>(kt)``, ``s = Concat(a, b)``.
    """

    name: ClassVar[str] = "raise-shapes"
    contract: ClassVar[Contract] = Contract.EXACT

    def run(self, graph: Graph) -> int:
        """Moves every Shape that reads scores or weights of attention to what these are made of."""
        shapes = infer_shapes(graph)
        changes = 0
        for node in graph.nodes:
            if is_op(node, "Shape"):
                changes += _raise(graph, node, shapes)
        return changes


def _raise(graph: Graph, node: gs.Node, shapes: ShapeMap) -> bool:
    """Lets one Shape read a value further up; False if nothing is gained."""
    source = _product_above(node.inputs[0], shapes)
    if source is None:
        return False
    output = node.outputs[0]
    if any(value is output for value in graph.gs.outputs) or graph.is_captured(output):
        return False
    left, right = source.inputs
    parts = [
        _shape_of(graph, left, node.name, end=-1),
        _shape_of(graph, right, node.name, start=-1),
    ]
    whole = emit(graph, "Concat", parts, f"{node.name}_raised", dtype=np.int64, attrs={"axis": 0})
    rank = shapes.rank(node.inputs[0]) or 0
    start, end = int(node.attrs.get("start", 0)), int(node.attrs.get("end", rank))
    if (start, end) != (0, rank):
        numbers = [
            gs.Constant(graph.new_name(f"{node.name}_{word}"), np.array([value], dtype=np.int64))
            for word, value in (("start", start), ("end", end))
        ]
        whole = emit(graph, "Slice", [whole, *numbers], f"{node.name}_part", dtype=np.int64)
    node.outputs.clear()
    replace_uses(output, whole)
    return True


def _shape_of(
    graph: Graph, tensor: gs.Tensor, stem: str, *, start: int = 0, end: int | None = None
) -> gs.Variable:
    attrs: dict[str, object] = {"start": start} if end is None else {"start": start, "end": end}
    return emit(graph, "Shape", [tensor], f"{stem}_above", dtype=np.int64, attrs=attrs)


def _product_above(tensor: gs.Tensor, shapes: ShapeMap) -> gs.Node | None:
    """The QK^T product with the shape of ``tensor`` that it is made of, through nodes that keep that shape."""
    wanted = shapes.shape(tensor)
    if wanted is None:
        return None
    softmax = _feeds_softmax(tensor)
    seen: set[int] = set()
    pending = [tensor]
    while pending and len(seen) < _MOST_NODES:
        node = producer(pending.pop())
        if node is None or node.domain or id(node) in seen:
            continue
        seen.add(id(node))
        softmax |= node.op == "Softmax"
        if node.op == "MatMul" and softmax and _is_plain(node, shapes):
            return node
        if node.op in _KEEPING:
            pending.extend(
                value for value in node.inputs if value.name and shapes.shape(value) == wanted
            )
    return None


def _is_plain(node: gs.Node, shapes: ShapeMap) -> bool:
    """True for a product that broadcasts nothing."""
    left, right = (shapes.shape(value) for value in node.inputs)
    if left is None or right is None:
        return False
    return len(left) == len(right) >= 2 and left[:-2] == right[:-2]


def _feeds_softmax(tensor: gs.Tensor) -> bool:
    """True if a softmax reads the value, at most a few nodes on that keep its shape."""
    frontier = [tensor]
    for _ in range(_STEPS):
        nodes = {id(node): node for value in frontier for node in value.outputs}.values()
        if any(is_op(node, "Softmax") for node in nodes):
            return True
        frontier = [
            value
            for node in nodes
            if node.op in _KEEPING or node.op in ("Reshape", "Flatten")
            for value in node.outputs
        ][:_MOST_NODES]
    return False
