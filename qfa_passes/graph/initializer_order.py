"""The order of initializers in a file, which must not tell in how many steps it was made."""

from __future__ import annotations

from onnx import GraphProto, TensorProto

from qfa_passes.graph.preserved import captured_names


def order_initializers(graph: GraphProto) -> None:
    """Puts initializers in the order in which nodes first read them, in place, as the editing graph writes them."""
    places: dict[str, int] = {}
    for node in graph.node:
        for name in (*node.input, *captured_names(node)):
            places.setdefault(name, len(places))
    last = len(places)
    tensors = sorted(graph.initializer, key=lambda tensor: places.get(tensor.name, last))
    copies = []
    for tensor in tensors:
        copies.append(TensorProto())
        copies[-1].CopyFrom(tensor)
    del graph.initializer[:]
    graph.initializer.extend(copies)
