"""Element types of values in the editing graph, which writes those that numpy lacks as numbers."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from qfa_passes.core.view import View, ViewOp, Views

FLOATS: Final = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def type_code(dtype: object) -> int | None:
    """The ONNX code of a numpy type or of a code; None if it is not known."""
    if dtype is None or isinstance(dtype, int):
        return dtype
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))  # type: ignore[call-overload]


def is_float(tensor: gs.Tensor) -> bool:
    """True for a value of a plain float type."""
    return type_code(tensor.dtype) in FLOATS


def cast_view(tensor: gs.Tensor) -> Views:
    """The step that gives a value the type of ``tensor``."""
    code = type_code(tensor.dtype)
    assert code is not None
    return (View(ViewOp.CAST, (code,)),)
