"""A softmax written out in exponentials becomes one node."""

from __future__ import annotations

from typing import ClassVar, Final

import onnx_graphsurgeon as gs

from qfa_passes.core.passes import Contract
from qfa_passes.graph.constants import constant_value
from qfa_passes.graph.graph_pass import GraphPass
from qfa_passes.graph.ir import Graph, is_op, producer
from qfa_passes.graph.shape_inference import infer_shapes
from qfa_passes.graph.shapes import ShapeMap

_STEPS: Final = 5
_PASSED: Final = frozenset(
    ("Cast", "Identity", "Dropout", "Where", "IsNaN", "Reshape", "Transpose", "Slice")
)


class JoinSoftmax(GraphPass):
    """Weights of attention as some frameworks write them.

    Before: ``h = ReduceMax(x)``, ``d = Sub(x, h)``, ``e = Exp(d)``, ``n = ReduceSum(e)``, ``p = Div(e, n)``.
    After: ``p = Softmax(x)``. The exponential of a LogSoftmax is one, too.
    """

    name: ClassVar[str] = "join-softmax"
    contract: ClassVar[Contract] = Contract.EXACT

    def run(self, graph: Graph) -> int:
        """Joins every softmax whose result is multiplied by a matrix."""
        ends = [
            node
            for node in graph.nodes
            if is_op(node, "Div", "Mul", "Exp") and _exponential(node) and _feeds_product(node)
        ]
        if not ends:
            return 0
        shapes = infer_shapes(graph)
        return sum(_join(graph, node, shapes) for node in ends)


def _exponential(end: gs.Node) -> tuple[gs.Node, gs.Node] | None:
    """The Exp of which ``end`` makes weights, Div(e, sum) or Mul(e, 1 / sum), and the sum; twice Exp(LogSoftmax)."""
    if is_op(end, "Exp"):
        return (end, end) if is_op(producer(end.inputs[0]), "LogSoftmax") else None
    for value, total in (end.inputs, end.inputs[::-1])[: 1 if end.op == "Div" else 2]:
        exp, divisor = producer(value), producer(total)
        if end.op == "Mul":
            divisor = producer(divisor.inputs[0]) if is_op(divisor, "Reciprocal") else None
        if is_op(exp, "Exp") and is_op(divisor, "ReduceSum") and divisor.inputs[0] is value:
            return exp, divisor
    return None


def _join(graph: Graph, end: gs.Node, shapes: ShapeMap) -> bool:
    read = _log_softmax(end, shapes) if end.op == "Exp" else _shifted(end, shapes)
    if read is None:
        return False
    source, axis = read
    if shapes.shape(source) is None or shapes.shape(source) != shapes.shape(end.outputs[0]):
        return False
    output = end.outputs[0]
    end.outputs.clear()
    name = graph.new_name(f"{end.name}_softmax")
    graph.add(gs.Node("Softmax", name, {"axis": axis}, [source], [output]))
    return True


def _log_softmax(end: gs.Node, shapes: ShapeMap) -> tuple[gs.Tensor, int] | None:
    inner = producer(end.inputs[0])
    rank = shapes.rank(end.inputs[0])
    if inner is None or rank is None:
        return None
    return inner.inputs[0], int(inner.attrs.get("axis", -1)) % rank


def _shifted(end: gs.Node, shapes: ShapeMap) -> tuple[gs.Tensor, int] | None:
    """The scores and the axis of Exp(x - max(x)) over its sum."""
    read = _exponential(end)
    if read is None:
        return None
    exp, total = read
    shift = producer(exp.inputs[0])
    if not is_op(shift, "Sub"):
        return None
    source, highest = shift.inputs
    peak = producer(highest)
    if is_op(peak, "Identity"):  # a stopped gradient
        peak = producer(peak.inputs[0])
    if not is_op(peak, "ReduceMax") or peak.inputs[0] is not source:
        return None
    axes = _axis(peak, shapes), _axis(total, shapes)
    return (source, axes[0]) if axes[0] is not None and axes[0] == axes[1] else None


def _axis(reduce: gs.Node, shapes: ShapeMap) -> int | None:
    """The one axis of a reduction that keeps it."""
    axes = reduce.attrs.get("axes")
    if axes is None and len(reduce.inputs) > 1 and reduce.inputs[1].name:
        value = constant_value(reduce.inputs[1])
        axes = None if value is None else value.reshape(-1).tolist()
    rank = shapes.rank(reduce.inputs[0])
    if not axes or len(axes) != 1 or rank is None or not reduce.attrs.get("keepdims", 1):
        return None
    return int(axes[0]) % rank


def _feeds_product(end: gs.Node) -> bool:
    frontier = [end]
    for _ in range(_STEPS):
        readers = [node for last in frontier for value in last.outputs for node in value.outputs]
        if any(is_op(node, "MatMul", "Einsum", "Gemm") for node in readers):
            return True
        frontier = [node for node in readers if node.op in _PASSED]
    return False
