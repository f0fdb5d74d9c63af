"""Two casts in a row become one where the type between them holds every value."""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np
import onnx
from onnx import TensorProto

from qfa_passes.core.passes import Contract
from qfa_passes.graph.graph_pass import GraphPass
from qfa_passes.graph.ir import Graph, is_op, producer

_FLOATS: Final = (TensorProto.FLOAT, TensorProto.DOUBLE)
_INTEGERS: Final = (TensorProto.INT16, TensorProto.INT32, TensorProto.INT64)
_BYTES: Final = (TensorProto.INT8, TensorProto.UINT8)

_WIDER: Final[dict[int, tuple[int, ...]]] = {
    TensorProto.BOOL: (TensorProto.FLOAT16, *_FLOATS, *_BYTES, *_INTEGERS),
    TensorProto.FLOAT16: _FLOATS,
    TensorProto.BFLOAT16: _FLOATS,
    TensorProto.FLOAT: (TensorProto.DOUBLE,),
    TensorProto.INT8: _INTEGERS,
    TensorProto.UINT8: _INTEGERS,
    TensorProto.INT16: _INTEGERS,
    TensorProto.INT32: (TensorProto.INT64, TensorProto.DOUBLE),
}
"""Types that hold every value of a type."""


class MergeCasts(GraphPass):
    """Casts to a wider type on the way to another one.

    Before: ``y = Cast<to = float>(x)`` with a float16 ``x``, ``z = Cast<to = float16>(y)``.
    After: ``z = Cast<to = float16>(x)``, which the next pass removes. A cast to a narrower type rounds, and stays.
    """

    name: ClassVar[str] = "merge-casts"
    contract: ClassVar[Contract] = Contract.EXACT

    def run(self, graph: Graph) -> int:
        """Lets every second cast read what the first one reads."""
        changes = 0
        for node in graph.nodes:  # in order: a chain shrinks from its start
            first = producer(node.inputs[0]) if is_op(node, "Cast") else None
            if not is_op(first, "Cast"):
                continue
            source, between = type_code(first.inputs[0].dtype), type_code(first.attrs.get("to"))
            if source is not None and between in _WIDER.get(source, ()):
                node.inputs[0] = first.inputs[0]
                changes += 1
        return changes


def type_code(dtype: object) -> int | None:
    """The ONNX code of an element type, which may be given as such; None if it is not known."""
    if dtype is None or isinstance(dtype, int):
        return dtype
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))  # type: ignore[call-overload]
