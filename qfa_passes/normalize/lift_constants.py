"""Constant nodes become initializers."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto
from onnx_graphsurgeon.ir.tensor import LazyValues

from qfa_passes.core.passes import Contract
from qfa_passes.core.weights import is_hollow
from qfa_passes.graph.constants import constant_value
from qfa_passes.graph.graph_pass import GraphPass
from qfa_passes.graph.ir import Graph, is_op
from qfa_passes.normalize.to_constants import Content, to_constants


class LiftConstants(GraphPass):
    """One form for constants.

    Before: ``c = Constant<value = 2>()``, ``y = Mul(x, c)``. After: ``y = Mul(x, c)`` with the initializer ``c``.
    A constant that is a graph output stays a node.
    """

    name: ClassVar[str] = "lift-constants"
    contract: ClassVar[Contract] = Contract.EXACT

    def run(self, graph: Graph) -> int:
        """Lifts every Constant node with a numeric value."""
        return to_constants(graph, _content)


def _content(node: gs.Node) -> Content | None:
    if not is_op(node, "Constant"):
        return None
    large = _large(node)
    if large is not None:
        return large
    value = constant_value(node.outputs[0])
    if value is None or value.dtype.kind not in "fiub":
        return None
    return np.ascontiguousarray(value).reshape(value.shape)


def _large(node: gs.Node) -> LazyValues | None:
    """The content of a constant whose bytes are elsewhere; the initializer refers to the same place."""
    value = node.attrs.get("value")
    lazy = value._values if isinstance(value, gs.Constant) else None
    if not isinstance(lazy, LazyValues) or not is_hollow(lazy.tensor):
        return None
    tensor = TensorProto()
    tensor.CopyFrom(lazy.tensor)
    return LazyValues(tensor)
