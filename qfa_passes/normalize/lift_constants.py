"""Constant nodes become initializers."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.core.passes import Contract
from qfa_passes.graph.constants import constant_value
from qfa_passes.graph.edit import replace_uses
from qfa_passes.graph.graph_pass import GraphPass
from qfa_passes.graph.ir import Graph, is_op


class LiftConstants(GraphPass):
    """One form for constants.

    Before: ``c = Constant<value = 2>()``, ``y = Mul(x, c)``. After: ``y = Mul(x, c)`` with the initializer ``c``.
    A constant that is a graph output stays a node.
    """

    name: ClassVar[str] = "lift-constants"
    contract: ClassVar[Contract] = Contract.EXACT

    def run(self, graph: Graph) -> int:
        """Lifts every Constant node with a numeric value."""
        outputs = {id(tensor) for tensor in graph.gs.outputs}
        changes = 0
        for node in graph.nodes:
            if not is_op(node, "Constant") or id(node.outputs[0]) in outputs:
                continue
            value = constant_value(node.outputs[0])
            if value is None or value.dtype.kind not in "fiub":
                continue
            output = node.outputs[0]
            node.outputs.clear()
            lifted = gs.Constant(output.name, np.ascontiguousarray(value).reshape(value.shape))
            replace_uses(output, lifted)
            changes += 1
        return changes
