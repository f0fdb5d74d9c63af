"""Visits every graph and every tensor of a model, without recursion: a hostile model may nest deeply."""

from collections.abc import Iterator
from typing import Final

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from qfa_passes.core.printable import printable


def all_graphs(model: ModelProto) -> Iterator[GraphProto]:
    """Yields the main graph first, then every subgraph, without recursion; function bodies are not graphs."""
    pending: list[GraphProto] = []
    for training in model.training_info:
        pending += (training.initialization, training.algorithm)
    for function in model.functions:
        for node in function.node:
            pending.extend(subgraphs(node))
    pending.append(model.graph)
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph.node:
            pending.extend(subgraphs(node))


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yields the graphs that a node carries."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_tensors(model: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Yields (place, tensor) of every tensor in a model, the main graph's initializers first."""
    for graph in all_graphs(model):
        where = f"graph '{printable(graph.name)}'"
        for tensor in graph.initializer:
            yield where, tensor
        for sparse in graph.sparse_initializer:
            yield where, sparse.values
            yield where, sparse.indices
        yield from tensors_of_nodes(graph)
    for function in model.functions:
        for node in function.node:
            yield from tensors_of_node(node)


def tensors_of_nodes(graph: GraphProto) -> Iterator[tuple[str, TensorProto]]:
    """Yields (place, tensor) of every node attribute of one graph, not of its subgraphs."""
    for node in graph.node:
        yield from tensors_of_node(node)


def tensors_of_node(node: NodeProto) -> Iterator[tuple[str, TensorProto]]:
    """Yields (place, tensor) of the attributes of a node, not of its subgraphs."""
    for attribute in node.attribute:
        if attribute.type in _TENSOR_ATTRIBUTES or attribute.type == AttributeProto.UNDEFINED:
            where = f"node '{printable(node.name or node.op_type)}'"
            if attribute.HasField("t"):
                yield where, attribute.t
            for tensor in attribute.tensors:
                yield where, tensor
            if attribute.HasField("sparse_tensor"):
                yield where, attribute.sparse_tensor.values
                yield where, attribute.sparse_tensor.indices
            for sparse in attribute.sparse_tensors:
                yield where, sparse.values
                yield where, sparse.indices


_TENSOR_ATTRIBUTES: Final = frozenset(
    (
        AttributeProto.TENSOR,
        AttributeProto.TENSORS,
        AttributeProto.SPARSE_TENSOR,
        AttributeProto.SPARSE_TENSORS,
    )
)
