"""Types and shapes of a model's values, inferred by the onnx package."""

from __future__ import annotations

import onnx
from onnx import GraphProto, ModelProto

from qfa_passes.graph.scopes import bodies_of


def typed(proto: ModelProto) -> ModelProto:
    """Adds inferred types and shapes to the main graph; a model that inference rejects is returned as it is.

    Bodies of control flow stay as they are: the onnx package (1.22) mixes up what it knows of values that have the same
    name in two branches, and what it then writes into them is wrong. What a body gives is what it declares.
    """
    source = ModelProto()
    source.CopyFrom(proto)
    _open_negative_sizes(source.graph)
    for _, _, body in bodies_of(source.graph):
        if all(value.type.WhichOneof("value") for value in body.output):
            _empty(body)
    whole = any(len(body.node) for _, _, body in bodies_of(source.graph))
    try:
        result = onnx.shape_inference.infer_shapes(source, data_prop=not whole)
    except onnx.shape_inference.InferenceError:
        return proto
    # In order, for nodes need not have names.
    for (_, _, empty), (_, _, body) in zip(
        bodies_of(result.graph), bodies_of(proto.graph), strict=True
    ):
        empty.CopyFrom(body)
    return result


def _open_negative_sizes(graph: GraphProto) -> None:
    """Some exporters write a size of -1 where it is open; inference would take it for a number."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value < 0:
                dim.ClearField("dim_value")


def _empty(body: GraphProto) -> None:
    for field in ("node", "initializer", "sparse_initializer", "value_info"):
        body.ClearField(field)
