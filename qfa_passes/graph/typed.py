"""Types and shapes of a model's values, inferred by the onnx package."""

from __future__ import annotations

import onnx
from onnx import GraphProto, ModelProto, ValueInfoProto

from qfa_passes.graph.scopes import bodies_of


def typed(proto: ModelProto) -> ModelProto:
    """Adds inferred types and shapes to the main graph; a model that inference rejects is returned as it is.

    Bodies of control flow stay as they are: the onnx package (1.22) mixes up the contents of shapes that have the same
    name in two branches, and what it then writes into them is wrong. So the contents of shapes are followed without the
    bodies, and what bodies give is what they declare, or else what is inferred without contents of shapes.
    """
    source = ModelProto()
    source.CopyFrom(proto)
    _open_negative_sizes(source.graph)
    try:
        _add_results(source)
        for _, _, body in bodies_of(source.graph):
            _empty(body)
        result = onnx.shape_inference.infer_shapes(source, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return proto
    # In order, for nodes need not have names.
    for (_, _, empty), (_, _, body) in zip(
        bodies_of(result.graph), bodies_of(proto.graph), strict=True
    ):
        empty.CopyFrom(body)
    return result


def _add_results(proto: ModelProto) -> None:
    """Adds the types of what control flow computes, where its bodies do not declare them in full."""
    names = {
        name
        for _, node, body in bodies_of(proto.graph)
        if not all(_is_declared(value) for value in body.output)
        for name in node.output
    } - {value.name for value in proto.graph.value_info}
    if not names:
        return
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    for value in proto.graph.output:
        if value.name in names and not _is_declared(value):
            known = next(entry for entry in inferred.output if entry.name == value.name)
            value.type.CopyFrom(known.type)
    proto.graph.value_info.extend(value for value in inferred.value_info if value.name in names)


def _is_declared(value: ValueInfoProto) -> bool:
    kind = value.type.WhichOneof("value")
    return kind is not None and (kind != "tensor_type" or value.type.tensor_type.HasField("shape"))


def _open_negative_sizes(graph: GraphProto) -> None:
    """Some exporters write a size of -1 where it is open; inference would take it for a number."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value < 0:
                dim.ClearField("dim_value")


def _empty(body: GraphProto) -> None:
    for field in ("node", "initializer", "sparse_initializer", "value_info"):
        body.ClearField(field)
