"""A constant scalar that was quantized is a constant scalar again."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from qfa_passes.core.passes import Contract
from qfa_passes.graph.constants import constant_value
from qfa_passes.graph.graph_pass import GraphPass
from qfa_passes.graph.ir import Graph, is_op
from qfa_passes.normalize.to_constants import to_constants

_CODES = (np.int8, np.uint8, np.int16, np.uint16)


class FoldQuantizedScalars(GraphPass):
    """QuantizeLinear and DequantizeLinear of one constant number.

    Before: ``q = QuantizeLinear(c, step, zero)``, ``d = DequantizeLinear(q, step, zero)``, ``y = Mul(x, d)`` with three
    initializers. After: ``y = Mul(x, d)`` with the initializer ``d`` = (round(c / step) + zero - zero) * step.
    """

    name: ClassVar[str] = "fold-quantized-scalars"
    contract: ClassVar[Contract] = Contract.EXACT

    def run(self, graph: Graph) -> int:
        """Replaces the results of such nodes, in order."""
        return to_constants(graph, _value)


def _value(node: gs.Node) -> npt.NDArray[Any] | None:
    """What such a node computes in float32, as runtimes do."""
    if not is_op(node, "QuantizeLinear", "DequantizeLinear"):
        return None
    if len(node.inputs) != 3 or not node.inputs[2].name:
        return None
    values = [constant_value(tensor) for tensor in node.inputs]
    if any(value is None or value.size != 1 for value in values):
        return None
    number, step, zero = (np.asarray(value) for value in values)
    if step.dtype != np.float32 or zero.dtype not in _CODES:
        return None
    if node.op == "DequantizeLinear":
        if number.dtype != zero.dtype:
            return None
        whole = number.astype(np.int32) - zero.reshape(()).astype(np.int32)
        return np.asarray(whole.astype(np.float32) * step.reshape(()), dtype=np.float32)
    if number.dtype != np.float32 or not np.isfinite(number).all() or not step.reshape(()) > 0:
        return None
    codes = np.iinfo(zero.dtype)
    rounded = np.rint(number / step.reshape(())) + zero.reshape(()).astype(np.float32)
    return np.asarray(np.clip(rounded, codes.min, codes.max).astype(zero.dtype))
