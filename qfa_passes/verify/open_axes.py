"""Sizes of the open axes of a model's inputs that fit together, as its nodes say."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import onnx_graphsurgeon as gs
from onnx import ModelProto

from qfa_passes.errors import InvalidModelError
from qfa_passes.graph.dims import Dim
from qfa_passes.graph.ir import Graph
from qfa_passes.graph.shape_inference import infer_shapes
from qfa_passes.graph.shapes import Shape, ShapeMap
from qfa_passes.verify.extents import Solution, symbols_of

_ROUNDS: Final = 2
_ELEMENTWISE: Final = ("Add", "Sub", "Mul", "Div", "Where", "And", "Or")


def open_sizes(proto: ModelProto, batch: int, sequence: int) -> dict[str, int]:
    """Returns sizes by what an input's axis is called, such as ``past_length`` or ``past_length + length``.

    Args:
        proto: The model.
        batch: Size of first axes, as far as nothing else follows from the nodes.
        sequence: Size of all others.
    """
    try:
        graph = Graph(proto)
    except InvalidModelError:
        return {}
    shapes = infer_shapes(graph)
    solution = Solution()
    for _ in range(_ROUNDS):
        for node in graph.nodes:
            for left, right in _equations(node, shapes):
                solution.equate(left, right)
    first: dict[str, bool] = {}
    named: dict[str, Dim] = {}
    for tensor in graph.gs.inputs:
        shape = shapes.shape(tensor)
        for axis, (dim, extent) in enumerate(zip(shape or (), tensor.shape or (), strict=True)):
            named |= {extent: dim} if isinstance(extent, str) else {}
            for symbol in symbols_of(solution(dim)):
                first[symbol] = first.get(symbol, False) or axis == 0
    numbers = {symbol: batch if leading else sequence for symbol, leading in first.items()}
    sizes = {}
    for name, dim in named.items():
        size = solution(dim).at(numbers)
        if size > 0:
            sizes[name] = size
    return sizes


def _equations(node: gs.Node, shapes: ShapeMap) -> Iterator[tuple[Dim, Dim]]:
    """Extents that must be equal for a node to run."""
    known = [shapes.shape(tensor) for tensor in node.inputs if tensor.name]
    if node.domain or None in known or len(known) < 2:
        return
    found: list[Shape] = [shape for shape in known if shape is not None]
    if node.op == "Concat" and len({len(shape) for shape in found}) == 1:
        axis = int(node.attrs.get("axis", 0)) % len(found[0])
        for one, other in pairwise(found):
            pairs = enumerate(zip(one, other, strict=True))
            yield from (pair for place, pair in pairs if place != axis)
    elif node.op == "MatMul" and min(map(len, found)) >= 2:
        yield found[0][-1], found[1][-2]
        yield from _aligned([shape[:-2] for shape in found])
    elif node.op in _ELEMENTWISE:
        yield from _aligned(found)


def _aligned(shapes: list[Shape]) -> Iterator[tuple[Dim, Dim]]:
    for axis in range(1, 1 + max(map(len, shapes))):
        extents = [shape[-axis] for shape in shapes if len(shape) >= axis and shape[-axis] != 1]
        yield from pairwise(extents)
