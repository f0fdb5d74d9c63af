"""Writes the nodes of an ONNX function, one call for each operator."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

AXES_ARE_INPUTS: Final = 18
"""From this version of ai.onnx on ReduceMax takes its axes as an input."""


class BodyWriter:
    """Appends nodes to a body; each call returns the name of the node's one output."""

    def __init__(self, opset: int) -> None:
        """Starts an empty body in a version of ai.onnx."""
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self._constants: dict[tuple[str, bytes], str] = {}

    def op(self, op_type: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Writes one operator whose result is called ``output``, or gets a name of its own."""
        name = output or f"{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], **attributes))
        return name

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """Writes a constant once and returns its name."""
        array = np.asarray(value, dtype)
        key = (f"{array.dtype}{array.shape}", array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.op("Constant", value=numpy_helper.from_array(array))
        return self._constants[key]

    def float_attribute(self, name: str) -> str:
        """Writes the value of an attribute of the function as a scalar."""
        output = self.op("Constant")
        self.nodes[-1].attribute.add(
            name="value_float", type=AttributeProto.FLOAT, ref_attr_name=name
        )
        return output

    def as_float(self, x: str) -> str:
        """Writes ``x`` in float32."""
        return self.op("Cast", x, to=TensorProto.FLOAT)

    def integer_attribute(self, name: str) -> str:
        """Writes the value of an attribute of the function as a vector of one element."""
        output = self.op("Constant")
        self.nodes[-1].attribute.add(name="value_int", type=AttributeProto.INT, ref_attr_name=name)
        return self.unsqueeze(output, 0)

    def reduce_max(self, x: str) -> str:
        """Writes the maximum over the last axis, which stays with extent 1."""
        if self.opset >= AXES_ARE_INPUTS:
            return self.op("ReduceMax", x, self.constant([-1], np.int64), keepdims=1)
        return self.op("ReduceMax", x, axes=[-1], keepdims=1)

    def extent(self, x: str, start: int, end: int | None = None) -> str:
        """Writes a part of the shape of ``x`` as a vector."""
        if end is None:
            return self.op("Shape", x, start=start)
        return self.op("Shape", x, start=start, end=end)

    def shaped(self, x: str, *extents: str) -> str:
        """Writes ``x`` in a shape given by vectors; zeros mean zeros."""
        return self.op("Reshape", x, self.op("Concat", *extents, axis=0), allowzero=1)

    def all_of(self, flags: list[str]) -> str:
        """Writes the conjunction of one or more arrays of flags."""
        seen = flags[0]
        for other in flags[1:]:
            seen = self.op("And", seen, other)
        return seen

    def unsqueeze(self, x: str, axis: int) -> str:
        """Writes ``x`` with a new axis."""
        return self.op("Unsqueeze", x, self.constant([axis], np.int64))
