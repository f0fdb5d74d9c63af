"""Scalars that exporters compute at run time although they never change, such as 1 / sqrt(Shape(q)[3])."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from qfa_passes.graph.constants import scalar_value
from qfa_passes.graph.ir import producer
from qfa_passes.graph.shapes import ShapeMap

_DEPTH: Final = 12
_EXACT: Final = 1 << 31

_UNARY: Final[dict[str, Callable[..., float]]] = {
    "Identity": lambda x: x,
    "Cast": lambda x: x,
    "CastLike": lambda x: x,
    "Unsqueeze": lambda x: x,
    "Squeeze": lambda x: x,
    "Sqrt": math.sqrt,
    "Reciprocal": lambda x: 1 / x,
    "Neg": lambda x: -x,
}
_BINARY: Final[dict[str, Callable[..., float]]] = {
    "Mul": lambda x, y: x * y,
    "Div": lambda x, y: x / y,
    "Pow": math.pow,
    "Add": lambda x, y: x + y,
    "Sub": lambda x, y: x - y,
}


def fixed_scalar(tensor: gs.Tensor, shapes: ShapeMap, depth: int = 0) -> float | None:
    """Returns the value of a one-element tensor that is the same in every run, else None."""
    constant = scalar_value(tensor)
    if constant is not None:
        return constant
    content = shapes.content(tensor)
    if content is not None and len(content.items) == 1 and content.items[0].value is not None:
        return float(content.items[0].value)
    node = producer(tensor)
    if node is None or node.domain or depth > _DEPTH:
        return None
    function = _UNARY.get(node.op) or _BINARY.get(node.op)
    if function is None:
        return None
    operands = []
    for source in node.inputs[: 1 if node.op in _UNARY else 2]:
        operand = fixed_scalar(source, shapes, depth + 1)
        if operand is None:
            return None
        operands.append(operand)
    try:
        return _in_type(function(*operands), tensor.dtype)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None


def _in_type(value: float, dtype: object) -> float | None:
    """The number that a tensor of a type holds after ``value`` was computed for it."""
    if dtype is None:
        return None
    if isinstance(dtype, int):  # an ONNX code: numpy has no such type of its own
        if dtype != onnx.TensorProto.BFLOAT16:
            return None
        dtype = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    kind = np.dtype(dtype)  # type: ignore[call-overload]
    if kind.kind == "V":
        return float(np.asarray(value).astype(kind))
    if kind.kind == "b":
        return float(value != 0)
    if kind.kind in "iu":
        return float(math.trunc(value)) if abs(value) < _EXACT else None
    with np.errstate(over="ignore"):
        return float(kind.type(value)) if kind.kind == "f" else None


def scaled_input(node: gs.Node, shapes: ShapeMap) -> tuple[gs.Tensor, float] | None:
    """Reads Mul(x, c), Mul(c, x) or Div(x, c) with a fixed finite c; returns (x, factor)."""
    if node.op not in ("Mul", "Div") or node.domain or len(node.inputs) != 2:
        return None
    left, right = node.inputs
    factor = fixed_scalar(right, shapes)
    source = left
    if factor is None and node.op == "Mul":
        factor, source = fixed_scalar(left, shapes), right
    if factor is None or not math.isfinite(factor) or factor == 0:
        return None
    return source, 1 / factor if node.op == "Div" else factor
