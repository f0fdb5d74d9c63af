"""Element types of values that come after operators which ONNX shape inference does not know.

The schemas of the standard operators say which output has the type of which input; for ``com.microsoft`` a short list
says whose floats all have one type.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.defs import OpSchema

from qfa_passes.graph.ir import Graph

_CONTRIB: Final = "com.microsoft"

_ONE_FLOAT_TYPE: Final = """
    Attention BiasAdd BiasGelu BiasSoftmax BiasSplitGelu DecoderMaskedMultiHeadAttention DynamicQuantizeMatMul FastGelu
    FusedConv FusedGemm FusedMatMul Gelu GemmFastGelu GroupQueryAttention MatMulBnb4 MatMulIntegerToFloat MatMulNBits
    MultiHeadAttention QuickGelu RotaryEmbedding SkipLayerNormalization SkipSimplifiedLayerNormalization
"""
"""Operators whose float inputs and first output, and last where it is a float, have one type."""

_WITH_BODIES: Final = frozenset(("If", "Loop", "Scan", "SequenceMap"))


def infer_types(graph: Graph) -> int:
    """Gives every value a type whose type follows from others; returns how many."""
    opset, changes = graph.opset, 0
    for node in graph.nodes:
        for position, output in enumerate(node.outputs):
            if output.dtype is not None or not output.name:
                continue
            found = _contrib(node, position) if node.domain else _standard(node, position, opset)
            if found is not None:
                output.dtype = found
                changes += 1
    return changes


def _contrib(node: gs.Node, position: int) -> Any:
    if node.domain != _CONTRIB:
        return None
    if node.op == "EmbedLayerNormalization" and position == 1:
        return np.dtype(np.int32)
    if node.op in _ONE_FLOAT_TYPE.split() or node.op == "EmbedLayerNormalization":
        if position in (1, 2) and "LayerNormalization" in node.op and "Embed" not in node.op:
            return np.dtype(np.float32)  # mean and inverse deviation
        return next((kind for kind in map(_type, node.inputs) if _is_float(kind)), None)
    if node.op == "DequantizeLinear":
        return _type(node.inputs[1])
    return _type(node.inputs[2]) if node.op == "QuantizeLinear" and len(node.inputs) > 2 else None


def _standard(node: gs.Node, position: int, opset: int) -> Any:
    if node.op in _WITH_BODIES:
        return None
    if node.op == "Cast":
        return _as_type(node.attrs.get("to"))
    if node.op == "ConstantOfShape":
        value = node.attrs.get("value")
        return np.dtype(np.float32) if value is None else _type(value)
    schema = _schema(node.op, opset)
    if schema is None or not schema.outputs:
        return None
    kind = schema.outputs[min(position, len(schema.outputs) - 1)].type_str
    allowed = next(
        (
            entry.allowed_type_strs
            for entry in schema.type_constraints
            if entry.type_param_str == kind
        ),
        [kind],
    )
    if len(allowed) == 1:
        return _named(allowed[0])
    for place, tensor in enumerate(node.inputs):
        formal = schema.inputs[min(place, len(schema.inputs) - 1)]
        if formal.type_str == kind and tensor.name and _type(tensor) is not None:
            return _type(tensor)
    return None


@cache
def _schema(op: str, opset: int) -> OpSchema | None:
    try:
        return onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return None


@cache
def _named(text: str) -> Any:
    """The type in ``tensor(float)``; None for sequences, maps and optionals."""
    name = text.removeprefix("tensor(").removesuffix(")")
    code = onnx.TensorProto.DataType.items() if text.startswith("tensor(") else ()
    return next((_as_type(number) for word, number in code if word.lower() == name), None)


def _as_type(kind: object) -> Any:
    """A numpy type, or the ONNX code of a type that plain numpy does not have."""
    if not isinstance(kind, int):
        return None if kind is None else kind
    found = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))
    return found if found.isbuiltin == 1 else kind


def _type(tensor: gs.Tensor) -> Any:
    return tensor.dtype


def _is_float(kind: object) -> bool:
    if kind is None:
        return False
    if isinstance(kind, int):
        return kind in (onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT)
    return bool(np.dtype(kind).kind == "f")  # type: ignore[call-overload]
