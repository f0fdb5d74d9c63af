"""The function body travels with the model, so that it runs without our library."""

from __future__ import annotations

from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from qfa_passes.core import opspec
from qfa_passes.core.formats import Rotation
from qfa_passes.core.model import opset_of
from qfa_passes.fuse.body_features import BodyFeatures
from qfa_passes.fuse.function_body import function_body

LOWEST_IR = 8
"""The first IR version with model-local functions."""


def attach_body(proto: ModelProto, channels: int | None) -> int:
    """Adds the body that serves all QuantFlashAttention nodes, and the neutral inputs that it needs, in place.

    Args:
        proto: A fused model.
        channels: D if it is the same for every node, else None.

    Returns:
        Number of nodes served; without any, a body that is left over is removed.
    """
    nodes = [node for node in proto.graph.node if is_fused(node)]
    stale = [
        function for function in proto.functions if (function.domain, function.name) == _IDENTITY
    ]
    for function in stale:
        proto.functions.remove(function)
    if not nodes:
        return 0
    features = BodyFeatures.of(nodes, opset_of(proto), channels)
    names = {tensor.name for tensor in proto.graph.initializer}
    for node in nodes:
        _complete(proto, node, features, names)
    proto.functions.append(function_body(features))
    proto.ir_version = max(proto.ir_version, LOWEST_IR)
    for entry in list(proto.opset_import):
        if entry.domain == opspec.DOMAIN:
            proto.opset_import.remove(entry)
    proto.opset_import.append(helper.make_opsetid(opspec.DOMAIN, opspec.DOMAIN_VERSION))
    return len(nodes)


def present_rotation(proto: ModelProto) -> Rotation | None:
    """Rotation of the nodes that a model already holds, which further ones must share; None without any."""
    for node in proto.graph.node:
        if is_fused(node):
            return BodyFeatures.of([node], 0).rotate
    return None


def present_channels(proto: ModelProto) -> set[int]:
    """D of the nodes that a typed model already holds; 0 stands for one that is not known."""
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.value_info, *proto.graph.input)
    }
    queries = [shapes.get(node.input[0], []) for node in proto.graph.node if is_fused(node)]
    return {shape[3] if len(shape) == 4 else 0 for shape in queries}


def is_fused(node: NodeProto) -> bool:
    """True for a QuantFlashAttention node."""
    return (node.domain, node.op_type) == _IDENTITY


_IDENTITY = (opspec.DOMAIN, opspec.OP_TYPE)


def _complete(proto: ModelProto, node: NodeProto, features: BodyFeatures, names: set[str]) -> None:
    formal = features.input_names()
    node.input.extend([""] * (len(formal) - len(node.input)))
    for name, value in features.neutral_inputs(node).items():
        label = f"{opspec.DOMAIN}/neutral_{name}"
        if label not in names:
            tensor: TensorProto = numpy_helper.from_array(value, label)
            proto.graph.initializer.append(tensor)
            names.add(label)
        node.input[opspec.input_index(name)] = label
