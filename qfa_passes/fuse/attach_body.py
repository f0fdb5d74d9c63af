"""The function body travels with the model, so that it runs without our library."""

from __future__ import annotations

from onnx import ModelProto, NodeProto, helper, numpy_helper

from qfa_passes.core import opspec
from qfa_passes.core.formats import Rotation
from qfa_passes.core.model import opset_of
from qfa_passes.fuse.body_features import BodyFeatures
from qfa_passes.fuse.empty_past import write_empty_past
from qfa_passes.fuse.function_body import function_body
from qfa_passes.fuse.fused_nodes import FusedNode, fused_nodes, is_fused, is_in_float, shape_of

__all__ = ["attach_body", "holds_float", "is_fused", "present_channels", "present_rotation"]

LOWEST_IR = 8
"""The first IR version with model-local functions."""


def attach_body(proto: ModelProto, channels: int | None) -> int:
    """Adds the body that serves all QuantFlashAttention nodes, and the neutral inputs that it needs, in place.

    Args:
        proto: A fused model; its nodes may lie in the bodies of If, Loop and Scan.
        channels: D if it is the same for every node, else None.

    Returns:
        Number of nodes served; without any, a body that is left over is removed.
    """
    found = list(fused_nodes(proto))
    stale = [
        function for function in proto.functions if (function.domain, function.name) == _IDENTITY
    ]
    for function in stale:
        proto.functions.remove(function)
    if not found:
        return 0
    ranks = {
        len(shape_of(entry, name) or ()) for entry in found for name in ("query", "key", "value")
    }
    features = BodyFeatures.of(
        [entry.node for entry in found], opset_of(proto), channels, any_rank=ranks != {4}
    )
    names = {tensor.name for tensor in proto.graph.initializer}
    for entry in found:
        if features.lacks_past(entry.node):
            write_empty_past(proto, entry)
        _complete(proto, entry.node, features, names)
    proto.functions.append(function_body(features))
    proto.ir_version = max(proto.ir_version, LOWEST_IR)
    for imported in list(proto.opset_import):
        if imported.domain == opspec.DOMAIN:
            proto.opset_import.remove(imported)
    proto.opset_import.append(helper.make_opsetid(opspec.DOMAIN, opspec.DOMAIN_VERSION))
    return len(found)


def present_rotation(proto: ModelProto) -> Rotation | None:
    """Rotation of the nodes that a model already holds, which further ones must share; None if they need not."""
    nodes = [entry.node for entry in fused_nodes(proto)]
    if not nodes or holds_float(proto):
        return None
    return BodyFeatures.of(nodes[:1], 0).rotate


def holds_float(proto: ModelProto) -> bool:
    """Whether a model holds nodes in float: then its body quantizes nothing, and binds no node in int8."""
    return any(is_in_float(entry.node) for entry in fused_nodes(proto))


def present_channels(proto: ModelProto) -> set[int]:
    """D of the nodes that a typed model already holds; 0 stands for one that is not known."""
    return {_channels(entry) for entry in fused_nodes(proto)}


_IDENTITY = (opspec.DOMAIN, opspec.OP_TYPE)


def _channels(entry: FusedNode) -> int:
    shape = shape_of(entry, "query") or ()
    if len(shape) not in (3, 4):
        return 0
    heads = next(item.i for item in entry.node.attribute if item.name == "num_heads")
    return shape[-1] if len(shape) == 4 else shape[-1] // max(heads, 1)


def _complete(proto: ModelProto, node: NodeProto, features: BodyFeatures, names: set[str]) -> None:
    formal = features.input_names()
    node.input.extend([""] * (len(formal) - len(node.input)))
    for name, value in features.neutral_inputs(node).items():
        label = f"{opspec.DOMAIN}/neutral_{name}"
        if label not in names:
            proto.graph.initializer.append(numpy_helper.from_array(value, label))
            names.add(label)
        node.input[opspec.input_index(name)] = label
    _complete_attributes(node)
    # Runtimes want as many results as the body has; those without a name cost nothing.
    node.output.extend([""] * (len(features.output_names()) - len(node.output)))


def _complete_attributes(node: NodeProto) -> None:
    """Writes all of them, for some runtimes do not know the defaults of a function."""
    written = {item.name: item for item in node.attribute if item.name != "schema_version"}
    defaults = {item.name: item.default for item in opspec.ATTRIBUTES if item.default is not None}
    completed = {
        name: helper.make_attribute(name, default) for name, default in defaults.items()
    } | written
    ordered = [completed[item.name] for item in opspec.ATTRIBUTES if item.name in completed]
    del node.attribute[:]
    node.attribute.extend(ordered)
