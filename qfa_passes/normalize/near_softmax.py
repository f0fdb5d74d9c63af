"""The products of attention stand a few scales, masks and casts away from a softmax: which nodes those are."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

import onnx_graphsurgeon as gs

from qfa_passes.graph.contrib.reading import DOMAIN
from qfa_passes.graph.ir import Graph, producer

_STEPS: Final = 12

_ABOVE: Final = frozenset(
    [
        "Add", "Cast", "Clip", "Concat", "DequantizeLinear", "Div", "Identity", "Max", "Min", "Mul", "QuantizeLinear",
        "Reshape", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze", "Where",
    ]
)  # fmt: skip
_BELOW: Final = frozenset(
    [
        "Cast", "DequantizeLinear", "Dropout", "Identity", "IsNaN", "Mul", "QuantizeLinear", "Reshape", "Slice",
        "Squeeze", "Transpose", "Unsqueeze", "Where",
    ]
)  # fmt: skip


def is_softmax(node: gs.Node) -> bool:
    """A softmax, alone or with a bias."""
    return (node.op == "Softmax" and not node.domain) or (
        node.op == "BiasSoftmax" and node.domain == DOMAIN
    )


def near_softmax(graph: Graph, wanted: Callable[[gs.Node], bool]) -> set[int]:
    """Ids of the ``wanted`` nodes whose result becomes scores, or that read softmax weights."""
    found: set[int] = set()
    for softmax in (node for node in graph.nodes if is_softmax(node)):
        found |= _reach(softmax, wanted, _sources, _ABOVE)
        found |= _reach(softmax, wanted, _readers, _BELOW)
    return found


def _reach(
    start: gs.Node,
    wanted: Callable[[gs.Node], bool],
    neighbours: Callable[[gs.Node], list[gs.Node]],
    passed: Collection[str],
) -> set[int]:
    found: set[int] = set()
    seen, frontier = {id(start)}, [start]
    for _ in range(_STEPS):
        following = [node for last in frontier for node in neighbours(last) if id(node) not in seen]
        seen.update(map(id, following))
        found.update(id(node) for node in following if wanted(node))
        frontier = [node for node in following if node.op in passed and not node.domain]
    return found


def _sources(node: gs.Node) -> list[gs.Node]:
    sources = (producer(tensor) for tensor in node.inputs)
    return [source for source in sources if source is not None]


def _readers(node: gs.Node) -> list[gs.Node]:
    return [reader for tensor in node.outputs for reader in tensor.outputs]
