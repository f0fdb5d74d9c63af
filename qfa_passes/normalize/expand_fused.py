"""Attention that another tool has fused already is written out, so that the matcher can read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final

import onnx_graphsurgeon as gs

from qfa_passes.core.passes import Contract
from qfa_passes.graph.contrib.grouped import read_grouped
from qfa_passes.graph.contrib.merged import read_merged
from qfa_passes.graph.contrib.multi_head import read_multi_head
from qfa_passes.graph.contrib.reading import DOMAIN, Unsupported
from qfa_passes.graph.graph_pass import GraphPass
from qfa_passes.graph.ir import Graph
from qfa_passes.graph.shape_inference import infer_shapes
from qfa_passes.graph.shapes import ShapeMap
from qfa_passes.normalize.causal_keep import Shared
from qfa_passes.normalize.expand_grouped import expand_grouped
from qfa_passes.normalize.expand_merged import expand_merged
from qfa_passes.normalize.expand_multi_head import expand_multi_head
from qfa_passes.normalize.writer import Writer, replace_nodes


class ExpandFused(GraphPass):
    """``com.microsoft`` attention in plain operators.

    Before: ``o = com.microsoft.MultiHeadAttention<num_heads = 4>(q, k, v)``.
    After: ``qh = Reshape(q, [0, 0, 4, D])``, ... ``s = MatMul(qt, kt)``, ``p = Softmax(s)``, ``a = MatMul(p, vt)``, ...
    ``o = Reshape(at, [0, 0, 4 * Dv])``, the nodes named after the one that they stand for (`core/origin.py`).
    """

    name: ClassVar[str] = "expand-fused"
    contract: ClassVar[Contract] = Contract.EXACT

    def __init__(self, keep: frozenset[str] = frozenset()) -> None:
        """Takes the names of nodes that stay as they are."""
        self._keep = keep

    def run(self, graph: Graph) -> int:
        """Writes out every node that is understood."""
        if not any(_is_fused(node) for node in graph.nodes):
            return 0
        shapes, shared = infer_shapes(graph), dict[object, Any]()
        return replace_nodes(graph, lambda node: self._expand(graph, node, shapes, shared))

    def _expand(
        self, graph: Graph, node: gs.Node, shapes: ShapeMap, shared: Shared
    ) -> Writer | None:
        if not _is_fused(node) or node.name in self._keep:
            return None
        read, expand = _EXPANSIONS[node.op]
        try:
            request = read(node, shapes)
        except Unsupported:
            return None  # the matcher reads it again, and tells the reason
        writer = Writer(graph, node, request.element)
        expand(writer, shared, request)
        return writer


_EXPANSIONS: Final[dict[str, tuple[Callable[..., Any], Callable[..., None]]]] = {
    "MultiHeadAttention": (read_multi_head, expand_multi_head),
    "Attention": (read_merged, expand_merged),
    "GroupQueryAttention": (read_grouped, expand_grouped),
}


def _is_fused(node: gs.Node) -> bool:
    return node.domain == DOMAIN and node.op in _EXPANSIONS
