"""What the editing graph cannot hold, taken out of a model before and put back after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from qfa_passes.core.walk import subgraphs

_DEFAULTS_ARE_OPTIONAL: Final = 4
"""From this IR version on, an initializer that is an input too is a default that the caller may replace."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A node as it was, without its inputs and outputs; `inputs` counts the real ones, captured values follow."""

    proto: NodeProto
    inputs: int | None


def captured_names(node: NodeProto) -> Iterator[str]:
    """Yields the outer values that the bodies of a control-flow node read."""
    for attribute in node.attribute:
        bodies = [attribute.g] if attribute.type == AttributeProto.GRAPH else list(attribute.graphs)
        for body in bodies:
            yield from free_names(body)


def free_names(graph: GraphProto) -> list[str]:
    """Returns the names that a body reads and does not define, in the order of their first use."""
    local = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    local |= {sparse.values.name for sparse in graph.sparse_initializer}
    free: dict[str, None] = {}
    for node in graph.node:
        for name in (*node.input, *captured_names(node)):
            if name and name not in local:
                free[name] = None
        local.update(node.output)
    for value in graph.output:
        if value.name not in local:
            free[value.name] = None
    return list(free)


def detach(node: NodeProto) -> Kept:
    """Remembers a node and takes out what the editing graph would lose; captured values become inputs."""
    if node.domain == "ai.onnx":
        node.domain = ""  # two names of one domain
    proto = NodeProto()
    proto.CopyFrom(node)
    del proto.input[:], proto.output[:]
    inputs = None
    if any(
        attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS)
        for attribute in node.attribute
    ):
        inputs = len(node.input)
        node.input.extend(dict.fromkeys(captured_names(node)))
    plain = [attribute for attribute in node.attribute if _is_plain(attribute)]
    if len(plain) < len(node.attribute):
        del node.attribute[:]
        node.attribute.extend(plain)
    return Kept(proto, inputs)


def copies(values: Iterable[ValueInfoProto]) -> list[ValueInfoProto]:
    """Returns values that do not change with their graph."""
    result = []
    for value in values:
        result.append(ValueInfoProto())
        result[-1].CopyFrom(value)
    return result


def _is_plain(attribute: AttributeProto) -> bool:
    """True if the editing graph can hold the attribute."""
    if attribute.type in (AttributeProto.FLOAT, AttributeProto.INT, AttributeProto.TENSOR):
        return True
    if attribute.type in (AttributeProto.FLOATS, AttributeProto.INTS):
        return bool(attribute.floats or attribute.ints)
    if attribute.type in (AttributeProto.STRING, AttributeProto.STRINGS):
        texts = attribute.strings or [attribute.s]
        return all(text.isascii() for text in texts)
    return False


def attach(node: NodeProto, kept: Kept | None) -> None:
    """Makes an imported node what it was, except for its inputs and outputs; a new node stays as it is."""
    if kept is None:
        return
    inputs, outputs = list(node.input[: kept.inputs]), list(node.output)
    node.CopyFrom(kept.proto)
    node.input.extend(inputs)
    node.output.extend(outputs)


def names_inside(node: NodeProto) -> Iterator[str]:
    """Yields every name that the bodies of a control-flow node define."""
    pending = list(subgraphs(node))
    while pending:
        graph = pending.pop()
        yield from (value.name for value in graph.input)
        yield from (tensor.name for tensor in graph.initializer)
        for inner in graph.node:
            yield inner.name
            yield from inner.output
            pending.extend(subgraphs(inner))


def take_defaults(proto: ModelProto) -> list[TensorProto]:
    """Removes and returns default values of inputs, so that nothing takes an input for a constant."""
    inputs = {value.name for value in proto.graph.input}
    if proto.ir_version < _DEFAULTS_ARE_OPTIONAL:
        return []  # all initializers are inputs, and constants all the same
    defaults = [tensor for tensor in proto.graph.initializer if tensor.name in inputs]
    if defaults:
        others = [tensor for tensor in proto.graph.initializer if tensor.name not in inputs]
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(others)
    return defaults


def simplify_types(graph: GraphProto) -> None:
    """Drops the types of values that are no plain tensors; they are put back in the end."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.WhichOneof("value") not in (None, "tensor_type"):
            value.ClearField("type")


def graph_header(graph: GraphProto) -> GraphProto:
    """Returns the parts of a graph that are neither nodes nor values."""
    header = GraphProto()
    for name in ("name", "doc_string"):
        if graph.HasField(name):
            setattr(header, name, getattr(graph, name))
    header.metadata_props.extend(graph.metadata_props)
    header.quantization_annotation.extend(graph.quantization_annotation)
    return header


def restore_graph_header(graph: GraphProto, header: GraphProto) -> None:
    """Puts back what `graph_header` returned."""
    graph.ClearField("name")
    graph.ClearField("doc_string")
    graph.MergeFrom(header)


def restore_values(
    graph: GraphProto,
    io: tuple[list[ValueInfoProto], list[ValueInfoProto]],
    values: dict[str, ValueInfoProto],
    defaults: list[TensorProto],
) -> None:
    """Puts back the inputs, outputs, types and defaults as they were, as far as they are still there."""
    constants = {tensor.name for tensor in graph.initializer}
    present = {value.name for value in graph.input}
    inputs = [value for value in io[0] if value.name in present or value.name in constants]
    del graph.input[:], graph.output[:]
    graph.input.extend(inputs)
    graph.output.extend(io[1])
    graph.initializer.extend(tensor for tensor in defaults if tensor.name in present)
    left = {name for node in graph.node for name in node.output} | constants
    ends = {value.name for value in io[1]}
    new = [value for value in graph.value_info if value.name not in values]
    infos = [value for name, value in values.items() if name in left and name not in ends] + new
    del graph.value_info[:]
    graph.value_info.extend(infos)
