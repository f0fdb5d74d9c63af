"""Which operators of the source model a finding was written out from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from onnx import GraphProto, NodeProto

from qfa_passes.core.origin import origin_nodes
from qfa_passes.core.site import AttentionSite, Refusal

_STEPS: Final = 16
_PRODUCTS: Final = ("MatMul", "Einsum", "Gemm", "FusedMatMul")


def origins_of(entry: AttentionSite | Refusal, prefix: str, graph: GraphProto) -> frozenset[str]:
    """Names of the source nodes that the nodes of a block stand for.

    Args:
        entry: What was found in ``graph``; its name starts with the prefix.
        prefix: Of the scope.
        graph: The graph of the scope.
    """
    if isinstance(entry, AttentionSite):
        operands = (entry.query, entry.key, entry.value)
        names = (*entry.nodes, *(name for operand in operands for name in operand.path))
        return origin_nodes([entry.name, *(prefix + name for name in names)])
    anchor = entry.where.removeprefix(prefix)
    near = _products_near(anchor, graph) if written_out(prefix, graph) else ()
    return origin_nodes([entry.where, *(prefix + name for name in near)])


def written_out(prefix: str, graph: GraphProto) -> frozenset[str]:
    """Names of all source nodes that were written out in a graph."""
    return origin_nodes(prefix + node.name for node in graph.node)


def _products_near(anchor: str, graph: GraphProto) -> list[str]:
    """Products that a softmax reads from or is read by, with no other product between."""
    start = next((node for node in graph.node if node.name == anchor), None)
    if start is None:
        return []
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found: list[str] = []
    for up in (True, False):
        frontier, seen = [start], {start.name}
        for _ in range(_STEPS):
            following = {
                node.name: node
                for last in frontier
                for node in (_made(last, makers) if up else _read(last, readers))
                if node.name not in seen
            }
            seen |= following.keys()
            found.extend(name for name, node in following.items() if node.op_type in _PRODUCTS)
            frontier = [node for node in following.values() if node.op_type not in _PRODUCTS]
    return found


def _made(node: NodeProto, makers: dict[str, NodeProto]) -> Iterable[NodeProto]:
    return [makers[name] for name in node.input if name in makers]


def _read(node: NodeProto, readers: dict[str, list[NodeProto]]) -> Iterable[NodeProto]:
    return [reader for name in node.output for reader in readers.get(name, ())]
