"""Shapes are asked of the values above, so that nothing is computed for its shape alone."""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.core.passes import Contract
from qfa_passes.graph.dims import Dim
from qfa_passes.graph.edit import constant, emit, replace_uses
from qfa_passes.graph.graph_pass import GraphPass
from qfa_passes.graph.ir import Graph, is_op, producer
from qfa_passes.graph.shape_inference import infer_shapes
from qfa_passes.graph.shapes import Shape, ShapeMap

_MOST_NODES: Final = 32
_STEPS: Final = 8
_KEEPING: Final = (
    *("Add", "Sub", "Mul", "Div", "Max", "Min", "Where"),
    *("Softmax", "Cast", "Identity", "Dropout", "Tanh", "Clip", "IsNaN"),
)


class RaiseShapes(GraphPass):
    """Shape of scores or weights becomes shape of Q and K, or of the model's inputs.

    Before: ``x = MatMul(q, kt)``, ``y = Add(x, m)``, ``p = Softmax(y)``, ``s = Shape(p)``.
    After: ``a = Shape<end = -1>(q)``, ``b = Shape<start = -1>(kt)``, ``s = Concat(a, b)``.
    """

    name: ClassVar[str] = "raise-shapes"
    contract: ClassVar[Contract] = Contract.EXACT

    def run(self, graph: Graph) -> int:
        """Moves every Shape that reads scores or weights of attention to what these are made of."""
        asked = [node for node in graph.nodes if is_op(node, "Shape") and _is_near(node.inputs[0])]
        if not asked:
            return 0
        shapes = infer_shapes(graph)
        places = _places(graph, shapes)
        return sum(_raise(graph, node, shapes, places) for node in asked)


Places = dict[str, tuple[gs.Tensor, int]]
"""Where each named extent is an axis of an input."""


def _places(graph: Graph, shapes: ShapeMap) -> Places:
    places: Places = {}
    for tensor in graph.gs.inputs:
        for axis, dim in enumerate(shapes.shape(tensor) or ()):
            if dim.is_symbol:
                ((monomial, _),) = dim.terms.items()
                places.setdefault(monomial[0], (tensor, axis))
    return places


def _raise(graph: Graph, node: gs.Node, shapes: ShapeMap, places: Places) -> bool:
    """Lets one Shape read a value further up; False if nothing is gained or it cannot be."""
    output = node.outputs[0]
    if any(value is output for value in graph.gs.outputs) or graph.is_captured(output):
        return False
    source, softmax = _product_above(node.inputs[0], shapes)
    if source is not None:
        left, right = source.inputs
        parts = [
            _shape_of(graph, left, node.name, end=-1),
            _shape_of(graph, right, node.name, start=-1),
        ]
    elif softmax:
        wanted = shapes.shape(node.inputs[0]) or ()
        found = [_from_inputs(graph, dim, places, node.name) for dim in wanted]
        if not found or any(part is None for part in found):
            return False
        parts = [part for part in found if part is not None]
    else:
        return False
    whole = emit(graph, "Concat", parts, f"{node.name}_raised", dtype=np.int64, attrs={"axis": 0})
    rank = shapes.rank(node.inputs[0]) or 0
    start, end = int(node.attrs.get("start", 0)), int(node.attrs.get("end", rank))
    if (start, end) != (0, rank):
        numbers: list[gs.Tensor] = [
            constant(graph, f"{node.name}_{word}", np.array([value], dtype=np.int64))
            for word, value in (("start", start), ("end", end))
        ]
        whole = emit(graph, "Slice", [whole, *numbers], f"{node.name}_part", dtype=np.int64)
    node.outputs.clear()
    replace_uses(output, whole)
    return True


def _shape_of(
    graph: Graph, tensor: gs.Tensor, stem: str, *, start: int = 0, end: int | None = None
) -> gs.Tensor:
    attrs: dict[str, object] = {"start": start} if end is None else {"start": start, "end": end}
    return emit(graph, "Shape", [tensor], f"{stem}_above", dtype=np.int64, attrs=attrs)


def _from_inputs(graph: Graph, dim: Dim, places: Places, stem: str) -> gs.Tensor | None:
    """An extent as a vector of one, from the shapes of inputs; None if it is no number or axis of an input."""
    if dim.value is not None:
        return constant(graph, f"{stem}_extent", np.array([dim.value], dtype=np.int64))
    if not dim.is_symbol:
        return None
    ((monomial, _),) = dim.terms.items()
    if monomial[0] not in places:
        return None
    tensor, axis = places[monomial[0]]
    return _shape_of(graph, tensor, stem, start=axis, end=axis + 1)


def _product_above(tensor: gs.Tensor, shapes: ShapeMap) -> tuple[gs.Node | None, bool]:
    """The QK^T product with the shape of ``tensor`` that it is made of, and whether a softmax is near.

    The way goes through nodes that keep the shape.
    """
    wanted = shapes.shape(tensor)
    if wanted is None:
        return None, False
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
            return node, softmax
        if node.op in _KEEPING:
            pending.extend(_of_shape(node, wanted, shapes))
    return None, softmax


def _of_shape(node: gs.Node, wanted: Shape, shapes: ShapeMap) -> list[gs.Tensor]:
    return [value for value in node.inputs if value.name and shapes.shape(value) == wanted]


def _is_plain(node: gs.Node, shapes: ShapeMap) -> bool:
    """True for a product that broadcasts nothing."""
    left, right = (shapes.shape(value) for value in node.inputs)
    if left is None or right is None:
        return False
    return len(left) == len(right) >= 2 and left[:-2] == right[:-2]


def _is_near(tensor: gs.Tensor) -> bool:
    """True if the value may be scores or weights: a softmax is a few nodes above or below."""
    seen: set[int] = set()
    pending = [tensor]
    while pending and len(seen) < _MOST_NODES:
        node = producer(pending.pop())
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if is_op(node, "Softmax"):
            return True
        if node.op in _KEEPING:
            pending.extend(node.inputs)
    return _feeds_softmax(tensor)


def _feeds_softmax(tensor: gs.Tensor) -> bool:
    """True if a softmax reads the value, at most a few nodes on that keep its numbers."""
    frontier = [tensor]
    for _ in range(_STEPS):
        few = [value for value in frontier if len(value.outputs) <= _MOST_NODES]  # as scores have
        nodes = {id(node): node for value in few for node in value.outputs}.values()
        if any(is_op(node, "Softmax") for node in nodes):
            return True
        frontier = [
            value
            for node in nodes
            if node.op in (*_KEEPING, "Reshape", "Flatten")
            for value in node.outputs
        ][:_MOST_NODES]
    return False
