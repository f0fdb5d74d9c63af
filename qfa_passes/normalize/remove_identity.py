"""Nodes that do nothing go away."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

import onnx_graphsurgeon as gs

from qfa_passes.core.passes import Contract
from qfa_passes.graph.constants import scalar_value
from qfa_passes.graph.edit import bypass
from qfa_passes.graph.graph_pass import GraphPass
from qfa_passes.graph.ir import Graph, is_op, producer
from qfa_passes.normalize.merge_casts import type_code


class RemoveIdentity(GraphPass):
    """Identity, Cast to the type a value already has, Dropout in inference, and a Transpose there and back.

    Before: ``y = Cast<to = float>(x)`` with a float ``x``, ``z = Mul(y, y)``. After: ``z = Mul(x, x)``.
    """

    name: ClassVar[str] = "remove-identity"
    contract: ClassVar[Contract] = Contract.EXACT

    def run(self, graph: Graph) -> int:
        """Bypasses every node that does nothing."""
        kept = {id(tensor) for tensor in graph.gs.outputs}
        return sum(
            (_does_nothing(node, kept) and bypass(graph, node)) or _goes_back(graph, node)
            for node in graph.nodes
        )


def _goes_back(graph: Graph, node: gs.Node) -> bool:
    """Lets the readers of the second of two transposes that undo each other read what the first one reads."""
    first = producer(node.inputs[0]) if is_op(node, "Transpose") else None
    if not is_op(first, "Transpose"):
        return False
    inner, outer = first.attrs.get("perm"), node.attrs.get("perm")
    if not inner or not outer or len(inner) != len(outer):
        return False
    if [inner[axis] for axis in outer] != list(range(len(inner))):
        return False
    before = node.inputs[0]
    node.inputs[0] = first.inputs[0]
    if bypass(graph, node):
        return True
    node.inputs[0] = before
    return False


def _does_nothing(node: gs.Node, kept: Collection[int]) -> bool:
    """True if a node gives what it takes; ``kept`` are the ids of graph outputs, such as the mask of a Dropout."""
    if is_op(node, "Identity"):
        return True
    if is_op(node, "Transpose"):
        perm = node.attrs.get("perm")
        return bool(perm) and list(perm) == list(range(len(perm)))
    if is_op(node, "Cast"):
        return _same_type(node.inputs[0].dtype, node.attrs.get("to"))
    if is_op(node, "Dropout"):
        if len(node.outputs) > 1 and (node.outputs[1].outputs or id(node.outputs[1]) in kept):
            return False
        return len(node.inputs) < 3 or not node.inputs[2].name or scalar_value(node.inputs[2]) == 0
    return False


def _same_type(source: object, target: object) -> bool:
    code = type_code(source)
    return code is not None and code == type_code(target)
