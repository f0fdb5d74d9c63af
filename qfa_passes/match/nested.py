"""Attention where the editing graph does not go: inside If, Loop and Scan, and inside functions. It is reported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from onnx import NodeProto

from qfa_passes.core import opspec
from qfa_passes.core.site import Refusal
from qfa_passes.core.walk import subgraphs
from qfa_passes.graph.ir import Graph

_STEPS: Final = 6
_STANDARD: Final = ("", "ai.onnx")


def nested_attention(graph: Graph) -> list[Refusal]:
    """Returns a refusal for each softmax that feeds a product inside a body or a function that is used."""
    found: list[Refusal] = []
    used = {(node.domain or "", node.op) for node in graph.gs.nodes}
    for name, nodes in _scopes(graph, used):
        for anchor in _anchors(nodes):
            label = anchor.name or (anchor.output[0] if anchor.output else anchor.op_type)
            reason = f"attention inside {name} is not supported by this release"
            found.append(Refusal(label, reason, "export the model without it, or inline it"))
    return found


def _scopes(graph: Graph, used: set[tuple[str, str]]) -> Iterator[tuple[str, list[NodeProto]]]:
    """Yields a name and the nodes of every body and function, also of bodies in them."""
    pending: list[tuple[str, Iterable[NodeProto]]] = [
        (f"the function {function.domain}::{function.name}", function.node)
        for function in graph.functions
        if (function.domain, function.name) in used and function.domain != opspec.DOMAIN
    ]
    for node in graph.imported():
        pending.extend(
            (f"the {node.op_type} node '{node.name}'", body.node) for body in subgraphs(node)
        )
    while pending:
        name, nodes = pending.pop(0)
        yield name, list(nodes)
        pending.extend((name, body.node) for node in nodes for body in subgraphs(node))


def _anchors(nodes: list[NodeProto]) -> Iterator[NodeProto]:
    readers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in nodes:
        if node.domain not in _STANDARD:
            continue
        if node.op_type == "Attention" or (
            node.op_type == "Softmax" and _feeds_product(node, readers)
        ):
            yield node


def _feeds_product(softmax: NodeProto, readers: dict[str, list[NodeProto]]) -> bool:
    frontier = list(softmax.output)
    for _ in range(_STEPS):
        following = [node for name in frontier if name for node in readers.get(name, [])]
        if any(node.op_type in ("MatMul", "Gemm", "Einsum") for node in following):
            return True
        frontier = list(dict.fromkeys(name for node in following for name in node.output))
    return False
