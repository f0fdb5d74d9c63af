"""Nodes that do nothing go away."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from qfa_passes.core.passes import Contract
from qfa_passes.graph.constants import scalar_value
from qfa_passes.graph.edit import bypass
from qfa_passes.graph.graph_pass import GraphPass
from qfa_passes.graph.ir import Graph, is_op


class RemoveIdentity(GraphPass):
    """Identity, Cast to the type a value already has, and Dropout in inference.

    Before: ``y = Cast<to = float>(x)`` with a float ``x``, ``z = Mul(y, y)``. After: ``z = Mul(x, x)``.
    """

    name: ClassVar[str] = "remove-identity"
    contract: ClassVar[Contract] = Contract.EXACT

    def run(self, graph: Graph) -> int:
        """Bypasses every node that does nothing."""
        return sum(_does_nothing(node) and bypass(graph, node) for node in graph.nodes)


def _does_nothing(node: gs.Node) -> bool:
    if is_op(node, "Identity"):
        return True
    if is_op(node, "Cast"):
        return _same_type(node.inputs[0].dtype, node.attrs.get("to"))
    if is_op(node, "Dropout"):
        if len(node.outputs) > 1 and node.outputs[1].outputs:
            return False
        return len(node.inputs) < 3 or not node.inputs[2].name or scalar_value(node.inputs[2]) == 0
    return False


def _same_type(source: object, target: object) -> bool:
    if source is None or target is None:
        return False
    return _code(source) == _code(target)


def _code(dtype: object) -> int:
    if isinstance(dtype, int):
        return dtype
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))  # type: ignore[call-overload]
