"""Half floats become float32, so that the structure of a block shows without their rounding."""

from __future__ import annotations

from typing import Final

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from qfa_passes.core.walk import all_graphs

HALVES: Final = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_TYPE_ATTRIBUTES: Final = ("to", "dtype", "softmax_precision")


def widen(proto: ModelProto) -> None:
    """Makes every half float of a model a float32, in place; its tensors hold their bytes themselves."""
    for graph in all_graphs(proto):
        for value in (*graph.input, *graph.output, *graph.value_info):
            kind = value.type.tensor_type
            if kind.elem_type in HALVES:
                kind.elem_type = TensorProto.FLOAT
        for tensor in graph.initializer:
            _widen_tensor(tensor)
        for node in graph.node:
            _widen_node(node)
    for function in proto.functions:
        for node in function.node:
            _widen_node(node)


def _widen_node(node: NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name in _TYPE_ATTRIBUTES and attribute.i in HALVES:
            attribute.i = TensorProto.FLOAT
        if attribute.HasField("t"):
            _widen_tensor(attribute.t)


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in HALVES:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
