"""How low the values of a bias can be, as far as constants and codes tell."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.graph.constants import constant_value
from qfa_passes.graph.ir import is_op, producer
from qfa_passes.graph.shapes import ShapeMap
from qfa_passes.match.fills import uniform_value

_DEPTH: Final = 16
_KEEPING: Final = (
    *("Expand", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Identity", "Tile"),
    *("Slice", "Gather", "Cast"),
)


def lowest_value(tensor: gs.Tensor, shapes: ShapeMap, depth: int = 0) -> float | None:
    """A number that no element of a float tensor is below in any run; None if none is known."""
    uniform = uniform_value(tensor, shapes)
    if uniform is not None:
        return uniform
    value = constant_value(tensor)
    if value is not None:
        return float(value.min()) if value.size and value.dtype.kind == "f" else None
    node = producer(tensor)
    if node is None or node.domain or depth > _DEPTH:
        return None
    if is_op(node, "DequantizeLinear"):
        return _lowest_rounded(node, shapes, depth)
    sources = node.inputs[:1] if node.op in _KEEPING else ()
    if node.op in ("Where", "Concat"):
        sources = node.inputs[1:] if node.op == "Where" else node.inputs
    bounds = [lowest_value(source, shapes, depth + 1) for source in sources]
    known = [bound for bound in bounds if bound is not None]
    return min(known) if known and len(known) == len(bounds) else None


def _lowest_rounded(dequantize: gs.Node, shapes: ShapeMap, depth: int) -> float | None:
    """What the lowest code of a DequantizeLinear stands for, or what comes of the lowest value that is rounded."""
    steps = constant_value(dequantize.inputs[1])
    if len(dequantize.inputs) < 3 or not dequantize.inputs[2].name:
        return None
    zeros = constant_value(dequantize.inputs[2])
    if steps is None or zeros is None or zeros.dtype not in (np.int8, np.uint8) or not steps.size:
        return None
    step = float(steps.astype(np.float64).max())
    code = 0 if zeros.dtype == np.uint8 else -128
    lowest = (code - float(zeros.max())) * step
    if not np.isfinite(lowest):
        return None
    quantize = producer(dequantize.inputs[0])
    if not is_op(quantize, "QuantizeLinear"):
        return lowest
    before = lowest_value(quantize.inputs[0], shapes, depth + 1)
    return lowest if before is None else max(lowest, before - step)
