"""Tensors that hold one and the same number everywhere, such as what a masked_fill puts in place of scores."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.graph.constants import constant_value
from qfa_passes.graph.ir import is_op, producer
from qfa_passes.graph.shapes import ShapeMap
from qfa_passes.match.scalars import fixed_scalar

_DEPTH: Final = 8
_SPREADING: Final = ("Expand", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Tile", "Transpose")


def uniform_value(tensor: gs.Tensor, shapes: ShapeMap) -> float | None:
    """Returns the number that every element of a tensor has in every run, else None."""
    for _ in range(_DEPTH):
        scalar = fixed_scalar(tensor, shapes)
        if scalar is not None:
            return scalar
        value = constant_value(tensor)
        if value is not None:
            if not value.size or value.dtype.kind not in "fiub":
                return None
            first = float(value.reshape(-1)[0])
            return first if np.all(value == value.reshape(-1)[0]) else None
        node = producer(tensor)
        if is_op(node, "ConstantOfShape"):
            fill = node.attrs.get("value")
            value = np.zeros(1) if fill is None else constant_value(fill)
            return None if value is None else float(value.reshape(-1)[0])
        if node is None or not is_op(node, *_SPREADING):
            return None
        tensor = node.inputs[0]
    return None
