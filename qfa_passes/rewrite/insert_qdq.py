"""Q/DQ pairs on the Q, K and V of planned sites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from qfa_passes.core.passes import Contract
from qfa_passes.core.plan import StaticScales
from qfa_passes.core.site import AttentionSite
from qfa_passes.graph.edit import constant, emit
from qfa_passes.graph.graph_pass import GraphPass
from qfa_passes.graph.ir import Graph
from qfa_passes.rewrite.own_views import own_views

CENTRE: Final = 128
"""Zero point of the uint8 codes. ONNX Runtime 1.31 fails to load int8 pairs in front of a Transpose at opset 21 and
later, and 1.24 miscomputes pairs without zero point; uint8 around 128 holds the same codes and loads everywhere."""


class InsertQdq(GraphPass):
    """Marks Q, K and V of each site with a Q/DQ pair of one static step.

    Before: ``s = MatMul(q, kt)``.
    After: ``qq = QuantizeLinear(q, step, 128)``, ``qd = DequantizeLinear(qq, step, 128)``, ``s = MatMul(qd, kt)``;
    likewise for K and V, each where the canonical (B, heads, rows, channels) value is. Views that others read too are
    doubled first (own_views.py).

    A float16 or bfloat16 value is cast to float32 and back around its pair: QuantizeLinear takes float16 from opset 19
    on only, and a small step would vanish in it; ONNX Runtime takes no bfloat16.
    """

    name: ClassVar[str] = "insert-qdq"
    contract: ClassVar[Contract] = Contract.QUANTIZES

    def __init__(self, sites: Sequence[tuple[AttentionSite, StaticScales]]) -> None:
        """Takes the sites and their calibrated steps."""
        self._sites = sites

    def run(self, graph: Graph) -> int:
        """Inserts three pairs a site; operands that already have one are left alone."""
        tensors, nodes = graph.tensors(), graph.node_index()
        changes = 0
        for site, scales in self._sites:
            for operand, steps, letter in (
                (site.query, scales.query, "q"),
                (site.key, scales.key, "k"),
                (site.value, scales.value, "v"),
            ):
                if operand.scale is None:
                    step = float(np.max(steps))
                    stem = f"{site.name}/{letter}"
                    consumer = own_views(graph, nodes, operand, stem)
                    _insert(graph, consumer, tensors[operand.tensor], step, stem)
                    changes += 1
        return changes


def _insert(graph: Graph, consumer: gs.Node, tensor: gs.Tensor, step: float, stem: str) -> None:
    half = _half_type(tensor)
    source = tensor if half is None else _cast(graph, tensor, np.float32, f"{stem}_widen")
    scale = constant(graph, f"{stem}_scale", np.array(step, dtype=np.float32))
    zero = constant(graph, f"{stem}_zero_point", np.array(CENTRE, dtype=np.uint8))
    codes = emit(graph, "QuantizeLinear", [source, scale, zero], f"{stem}_quantize", dtype=np.uint8)
    back = emit(
        graph, "DequantizeLinear", [codes, scale, zero], f"{stem}_dequantize", dtype=np.float32
    )
    if half is not None:
        back = _cast(graph, back, half, f"{stem}_narrow")
    for position, value in enumerate(consumer.inputs):
        if value is tensor:
            consumer.inputs[position] = back
            return
    raise AssertionError(f"node '{consumer.name}' does not read '{tensor.name}'")


def _half_type(tensor: gs.Tensor) -> Any:
    """The target of a cast back to the type of a value in half precision; None for other types."""
    if isinstance(tensor.dtype, int):  # the editing graph's word for what numpy lacks
        return tensor.dtype if tensor.dtype == TensorProto.BFLOAT16 else None
    return np.float16 if tensor.dtype == np.float16 else None


def _cast(graph: Graph, tensor: gs.Tensor, dtype: Any, stem: str) -> gs.Variable:
    return emit(graph, "Cast", [tensor], stem, dtype=dtype, attrs={"to": dtype})
