"""Reading constants: initializers and Constant nodes, small enough to look at."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from qfa_passes.core.weights import is_hollow
from qfa_passes.graph.ir import is_op, producer


def constant_value(tensor: gs.Tensor) -> npt.NDArray[np.generic] | None:
    """Returns the value of an initializer or of a Constant node; None if it is computed or large (hollow)."""
    if isinstance(tensor, gs.Constant):
        lazy = tensor._values
        if isinstance(lazy, LazyValues) and is_hollow(lazy.tensor):
            return None
        return np.asarray(tensor.values)
    node = producer(tensor)
    if node is None or not is_op(node, "Constant"):
        return None
    for key, value in node.attrs.items():
        if key == "value":
            return constant_value(value)
        if key in ("value_float", "value_floats"):
            return np.asarray(value, dtype=np.float32)
        if key in ("value_int", "value_ints"):
            return np.asarray(value, dtype=np.int64)
    return None


def scalar_value(tensor: gs.Tensor) -> float | None:
    """Returns the number in a constant of exactly one element, else None."""
    value = constant_value(tensor)
    if value is None or value.size != 1:
        return None
    if value.dtype.name == "bfloat16":  # of no kind that numpy knows
        return float(value.astype(np.float32).reshape(())[()])
    return float(value.reshape(())[()]) if value.dtype.kind in "fiub" else None
