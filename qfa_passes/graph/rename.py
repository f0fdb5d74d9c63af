"""Values under other names, wherever a graph and the bodies inside it define or read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from onnx import GraphProto, NodeProto

from qfa_passes.core.walk import subgraphs


def rename_values(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Renames the values of a graph and of all bodies inside it, in place.

    Args:
        graph: The graph.
        names: New name by old name; others stay.
    """
    pending = [graph]
    while pending:
        current = pending.pop()
        for value in (*current.input, *current.output, *current.value_info):
            value.name = names.get(value.name, value.name)
        for tensor in current.initializer:
            tensor.name = names.get(tensor.name, tensor.name)
        for sparse in current.sparse_initializer:
            sparse.values.name = names.get(sparse.values.name, sparse.values.name)
        for note in current.quantization_annotation:
            note.tensor_name = names.get(note.tensor_name, note.tensor_name)
        pending.extend(_rename_arguments(current.node, names))


def rename_in_nodes(nodes: Iterable[NodeProto], names: Mapping[str, str]) -> None:
    """Renames what nodes, and the bodies inside them, read and define, in place."""
    for graph in _rename_arguments(nodes, names):
        rename_values(graph, names)


def defined_names(graph: GraphProto) -> Iterator[str]:
    """Yields the name of every value that a graph or a body inside it defines."""
    pending = [graph]
    while pending:
        current = pending.pop()
        yield from own_names(current)
        pending.extend(body for node in current.node for body in subgraphs(node))


def own_names(graph: GraphProto) -> Iterator[str]:
    """Yields the name of every value that a graph itself defines."""
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    yield from (sparse.values.name for sparse in graph.sparse_initializer)
    yield from (name for node in graph.node for name in node.output if name)


def _rename_arguments(nodes: Iterable[NodeProto], names: Mapping[str, str]) -> list[GraphProto]:
    """Renames inputs and outputs of nodes; returns the bodies inside them, untouched."""
    bodies: list[GraphProto] = []
    for node in nodes:
        for arguments in (node.input, node.output):
            for position, name in enumerate(arguments):
                if name in names:
                    arguments[position] = names[name]
        bodies.extend(subgraphs(node))
    return bodies
