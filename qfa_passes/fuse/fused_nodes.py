"""The QuantFlashAttention nodes of a model, in every graph, and what is known of the shapes around them."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto

from qfa_passes.core import opspec
from qfa_passes.core.formats import AttentionFormat
from qfa_passes.core.walk import subgraphs

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FusedNode:
    """A node, the graph that holds it, and the shapes of the values that it can see; 0 for an open extent."""

    node: NodeProto
    graph: GraphProto
    shapes: Mapping[str, Shape]


def fused_nodes(proto: ModelProto) -> Iterator[FusedNode]:
    """Yields the nodes of the main graph and of the bodies in it, without recursion."""
    pending: list[tuple[GraphProto, ChainMap[str, Shape]]] = [(proto.graph, ChainMap())]
    while pending:
        graph, outer = pending.pop()
        shapes = outer.new_child(_shapes(graph))
        for node in graph.node:
            if is_fused(node):
                yield FusedNode(node, graph, shapes)
            pending.extend((body, shapes) for body in subgraphs(node))


def is_fused(node: NodeProto) -> bool:
    """True for a QuantFlashAttention node."""
    return (node.domain, node.op_type) == (opspec.DOMAIN, opspec.OP_TYPE)


def is_in_float(node: NodeProto) -> bool:
    """True for a QuantFlashAttention node that is not in int8: a body computes it in float."""
    integer = AttentionFormat.INT8.value.encode()
    return any(item.name == "compute_format" and item.s != integer for item in node.attribute)


def shape_of(entry: FusedNode, name: str) -> Shape | None:
    """The shape of an input of the node, 0 for an open extent; None if its rank is not known."""
    return entry.shapes.get(entry.node.input[opspec.input_index(name)])


def _shapes(graph: GraphProto) -> dict[str, Shape]:
    found = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    found.update((tensor.name, tuple(tensor.dims)) for tensor in graph.initializer)
    return found
