"""A scale of the scores that differs from head to head, or query to query, moves to the operand that it belongs to."""

from __future__ import annotations

from typing import ClassVar

import onnx_graphsurgeon as gs

from qfa_passes.core.passes import Contract
from qfa_passes.graph.constants import scalar_value
from qfa_passes.graph.edit import emit
from qfa_passes.graph.graph_pass import GraphPass
from qfa_passes.graph.ir import Graph, is_op, producer
from qfa_passes.graph.shape_inference import infer_shapes
from qfa_passes.graph.shapes import Shape, ShapeMap
from qfa_passes.normalize.near_softmax import near_softmax


class MoveScales(GraphPass):
    """What multiplies the scores of a head or of a query multiplies Q instead; what multiplies those of a key, K^T.

    Before: ``s = MatMul(q, kt)``, ``x = Mul(s, c)`` with c of shape (H, 1, 1), ``p = Softmax(x)``.
    After: ``qc = Mul(q, c)``, ``x = MatMul(qc, kt)``, ``p = Softmax(x)``.
    """

    name: ClassVar[str] = "move-scales"
    contract: ClassVar[Contract] = Contract.EXACT

    def run(self, graph: Graph) -> int:
        """Moves every scale of scores that is no single number."""
        near = near_softmax(graph, lambda node: bool(_products(node)))
        scales = [
            (node, position)
            for node in graph.nodes
            if id(node) in near
            for position in _products(node)
        ]
        if not scales:
            return 0
        shapes = infer_shapes(graph)
        return sum(_move(graph, node, position, shapes) for node, position in scales)


def _products(node: gs.Node) -> list[int]:
    """Inputs of a scale that are products which nothing else reads, next to what is no single number."""
    if not is_op(node, "Mul", "Div") or len(node.inputs) != 2:
        return []
    places = (0,) if node.op == "Div" else (0, 1)
    return [
        place
        for place in places
        if is_op(producer(node.inputs[place]), "MatMul")
        and len(node.inputs[place].outputs) == 1
        and scalar_value(node.inputs[1 - place]) is None
    ]


def _move(graph: Graph, node: gs.Node, position: int, shapes: ShapeMap) -> bool:
    scores, scale = node.inputs[position], node.inputs[1 - position]
    matmul = producer(scores)
    extents = shapes.shape(scale)
    if matmul is None or extents is None or not extents or all(dim == 1 for dim in extents):
        return False
    if any(value is scores for value in graph.gs.outputs) or graph.is_captured(scores):
        return False
    for place, axis in ((0, -1), (1, -2)):
        operand = matmul.inputs[place]
        same_for_all = len(extents) < -axis or extents[axis] == 1
        if same_for_all and _fits(extents, shapes.shape(operand)):
            scaled = emit(
                graph,
                node.op,
                [operand, scale],
                f"{node.name}_moved",
                dtype=operand.dtype,
            )
            scaled.shape = operand.shape
            matmul.inputs[place] = scaled
            output = node.outputs[0]
            node.outputs.clear()
            matmul.outputs.clear()
            matmul.outputs.append(output)
            return True
    return False


def _fits(extents: Shape, operand: Shape | None) -> bool:
    """True if multiplying by the scale does not stretch the operand."""
    if operand is None or len(extents) > len(operand):
        return False
    return all(own in (1, other) for own, other in zip(extents[::-1], operand[::-1], strict=False))
