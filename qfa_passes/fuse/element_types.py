"""Element types of values in the editing graph, which writes those that numpy lacks as numbers."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from qfa_passes.graph.edit import emit
from qfa_passes.graph.ir import Graph

FLOAT_TYPES: Final = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
"""What the operator takes for scores, sinks and operands."""


def element_type(tensor: gs.Tensor) -> int | None:
    """The ONNX type; None if it is not known."""
    if tensor.dtype is None or isinstance(tensor.dtype, int):
        return tensor.dtype
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)))


def widened(graph: Graph, tensor: gs.Tensor, stem: str) -> gs.Tensor:
    """The value in float32."""
    if element_type(tensor) == TensorProto.FLOAT:
        return tensor
    return emit(graph, "Cast", [tensor], stem, dtype=np.float32, attrs={"to": np.float32})


def as_int64(graph: Graph, tensor: gs.Tensor, stem: str) -> gs.Tensor:
    """The value in int64."""
    if element_type(tensor) == TensorProto.INT64:
        return tensor
    return emit(graph, "Cast", [tensor], stem, dtype=np.int64, attrs={"to": np.int64})
