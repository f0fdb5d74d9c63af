"""Every attention block of a graph, as a site or as a refusal with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import onnx_graphsurgeon as gs

from qfa_passes.core.origin import origin_of
from qfa_passes.core.site import AttentionSite, Refusal
from qfa_passes.graph.ir import Graph, is_op, producer
from qfa_passes.match import contrib, decomposed, standard
from qfa_passes.match.context import MatchContext, MatchFailure
from qfa_passes.match.traits import with_traits

_PATTERNS: Final[
    tuple[tuple[Callable[[gs.Node], bool], Callable[[MatchContext, gs.Node], AttentionSite]], ...]
] = (
    (decomposed.is_candidate, decomposed.read_decomposed),
    (standard.is_candidate, standard.read_standard),
    (contrib.is_candidate, contrib.refuse_contrib),
)

_ENDING: Final = frozenset(
    ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ArgMax", "TopK", "Log", "Shape", "Conv")
)
"""What reads weights that are not those of attention: a pooling that sums up rows, a router, a loss."""


def find_sites(graph: Graph) -> list[AttentionSite | Refusal]:
    """Returns one record per candidate of the main graph, in graph order; bodies are looked at as models of their own.

    A softmax that feeds no product (a classifier head) is not a candidate and is passed over in silence.
    """
    context = MatchContext.of(graph)
    found: list[AttentionSite | Refusal] = []
    for node in graph.gs.nodes:
        for is_candidate, read in _PATTERNS:
            if not is_candidate(node):
                continue
            context.steps.clear()
            try:
                found.append(with_traits(context, _with_origin(read(context, node))))
            except MatchFailure as failure:
                if is_op(node, "Softmax") and not _near_product(node):
                    continue
                found.append(Refusal(node.name, failure.reason, failure.hint, tuple(context.steps)))
    return found


def _with_origin(site: AttentionSite) -> AttentionSite:
    """Says which operator a site was, if normalization wrote it out."""
    origin = origin_of(site.name)
    return site if origin is None else replace(site, exporter=origin.op)


def _near_product(softmax: gs.Node) -> bool:
    """True if a product reads the softmax output, at most a few steps on, or computes its input."""
    frontier = [softmax.outputs[0]]
    for _ in range(6):
        following = {id(node): node for tensor in frontier for node in tensor.outputs}.values()
        if any(is_op(node, "MatMul", "Gemm", "Einsum") for node in following):
            return True
        frontier = [
            tensor for node in following if node.op not in _ENDING for tensor in node.outputs
        ]
    source = producer(softmax.inputs[0])
    return is_op(source, "MatMul", "Einsum") and not isinstance(source.inputs[1], gs.Constant)
