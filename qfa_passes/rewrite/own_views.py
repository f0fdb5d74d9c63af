"""Views of an operand that others read too are doubled, so that a Q/DQ pair reaches its block alone."""

from __future__ import annotations

from itertools import pairwise

import onnx_graphsurgeon as gs

from qfa_passes.core.site import Operand
from qfa_passes.graph.edit import emit
from qfa_passes.graph.ir import Graph, is_op


def blocked_view(graph: Graph, operand: Operand) -> str | None:
    """Tells who reads an operand's views from outside the block, if the views cannot be doubled; else None."""
    nodes = graph.node_index()
    outsider = _outsider(graph, nodes, operand)
    if outsider is None or _can_be_doubled(graph, nodes, operand):
        return None
    return outsider


def own_views(graph: Graph, nodes: dict[str, gs.Node], operand: Operand, stem: str) -> gs.Node:
    """Returns the node that reads the operand's tensor for this block alone.

    Before: ``v = Transpose(x)``, ``s = MatMul(q, v)``, ``other = Relu(v)``.
    After: ``v = Transpose(x)``, ``w = Transpose(x)``, ``s = MatMul(q, w)``, ``other = Relu(v)``.
    Where nobody else reads the views, they are left as they are.
    """
    if _outsider(graph, nodes, operand) is None:
        return nodes[operand.path[0]]
    first: gs.Node | None = None
    old = _read(nodes[operand.path[0]], operand)
    new = old
    for name in operand.path[:-1]:
        node = nodes[name]
        inputs = [new if tensor is old else tensor for tensor in node.inputs]
        old = node.outputs[0]
        new = emit(
            graph, node.op, inputs, f"{stem}_{name}", dtype=old.dtype, attrs=dict(node.attrs)
        )
        new.shape = old.shape
        first = first or new.inputs[0]
    product = nodes[operand.path[-1]]
    product.inputs[next(i for i, tensor in enumerate(product.inputs) if tensor is old)] = new
    assert first is not None, "a path that somebody else reads has a view"
    return first


def _read(node: gs.Node, operand: Operand) -> gs.Tensor:
    return next(tensor for tensor in node.inputs if tensor.name == operand.tensor)


def _outsider(graph: Graph, nodes: dict[str, gs.Node], operand: Operand) -> str | None:
    outputs = {id(tensor) for tensor in graph.gs.outputs}
    for upper, lower in pairwise(operand.path):
        for tensor in nodes[upper].outputs:
            if id(tensor) in outputs:
                return f"the model output '{tensor.name}'"
            for consumer in tensor.outputs:
                if consumer.name != lower and not is_op(consumer, "Shape"):
                    return f"node '{consumer.name}'"
    return None


def _can_be_doubled(graph: Graph, nodes: dict[str, gs.Node], operand: Operand) -> bool:
    """True if every view is a standard node of one result, and the editing graph holds all of its attributes."""
    imported = {proto.name: len(proto.attribute) for proto in graph.imported()}
    views = [nodes[name] for name in operand.path[:-1]]
    return all(
        not node.domain
        and len(node.outputs) == 1
        and imported.get(node.name, len(node.attrs)) == len(node.attrs)
        for node in views
    )
