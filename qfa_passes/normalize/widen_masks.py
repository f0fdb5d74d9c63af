"""A mask added to scores in another shape of theirs, whose extents only a run tells, is brought to their own."""

from __future__ import annotations

from typing import ClassVar

import onnx_graphsurgeon as gs

from qfa_passes.core.passes import Contract
from qfa_passes.graph.edit import emit
from qfa_passes.graph.graph_pass import GraphPass
from qfa_passes.graph.ir import Graph, is_op, producer
from qfa_passes.graph.shape_inference import infer_shapes
from qfa_passes.graph.shapes import Shape, ShapeMap
from qfa_passes.normalize.near_softmax import near_softmax


class WidenMasks(GraphPass):
    """Shifted windows of images of any size.

    Before: ``x5 = Reshape(x, s5)``, ``y5 = Add(x5, m)``, ``y = Reshape(y5, s4)`` with x and y of one shape.
    After: ``e = Expand(m, s5)``, ``b = Reshape(e, s4)``, ``y = Add(x, b)``.
    Where the extents of s5 are fixed, but for one, the matcher finds a view without any new node.
    """

    name: ClassVar[str] = "widen-masks"
    contract: ClassVar[Contract] = Contract.EXACT

    def run(self, graph: Graph) -> int:
        """Rewrites every such addition."""
        near = near_softmax(graph, lambda node: _reshaped_sum(node) is not None)
        places = [node for node in graph.nodes if id(node) in near]
        if not places:
            return 0
        shapes = infer_shapes(graph)
        return sum(_rewrite(graph, node, shapes) for node in places)


def _reshaped_sum(last: gs.Node) -> tuple[gs.Node, gs.Node, int] | None:
    """Reads Reshape(Add(Reshape(x), m)); returns the first Reshape, the Add and where it reads the mask."""
    total = producer(last.inputs[0]) if is_op(last, "Reshape") else None
    if not is_op(total, "Add") or len(total.outputs[0].outputs) != 1:
        return None
    for place, value in enumerate(total.inputs):
        first = producer(value)
        if is_op(first, "Reshape") and len(value.outputs) == 1:
            return first, total, 1 - place
    return None


def _rewrite(graph: Graph, last: gs.Node, shapes: ShapeMap) -> bool:
    read = _reshaped_sum(last)
    assert read is not None
    first, total, place = read
    source, mask, between = first.inputs[0], total.inputs[place], total.inputs[1 - place]
    shape, inner = shapes.shape(source), shapes.shape(between)
    ends = {id(value) for value in graph.gs.outputs}
    inside = (between, total.outputs[0])
    if any(id(value) in ends or graph.is_captured(value) for value in inside):
        return False
    if shape is None or inner is None or shapes.shape(total.outputs[0]) != inner:
        return False
    if not _same_shape(shape, shapes.shape(last.outputs[0])):
        return False
    if sum(dim.value is None for dim in inner[:-2]) < 2 or not _plain(shapes, first.inputs[1]):
        return False
    stem, dtype = last.name, mask.dtype
    wide = emit(graph, "Expand", [mask, first.inputs[1]], f"{stem}_wide", dtype=dtype)
    brought = emit(graph, "Reshape", [wide, last.inputs[1]], f"{stem}_mask", dtype=dtype)
    output = last.outputs[0]
    last.outputs.clear()
    add = gs.Node("Add", graph.new_name(f"{stem}_add"), {}, [source, brought], [output])
    graph.add(add)
    return True


def _same_shape(left: Shape, right: Shape | None) -> bool:
    """True if two shapes of the same numbers can only be equal: all extents but one are, and are fixed."""
    if right is None or len(left) != len(right):
        return False
    others = [own for own, other in zip(left, right, strict=True) if own == other and own.value]
    return left == right or len(others) == len(left) - 1


def _plain(shapes: ShapeMap, target: gs.Tensor) -> bool:
    """True if the numbers in the target of a Reshape are all extents, none of them 0 or -1."""
    content = shapes.content(target)
    return content is not None and all(
        item.non_negative and item.value != 0 for item in content.items
    )
