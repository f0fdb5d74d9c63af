"""Evaluating the few nodes that make a mask, at several lengths and on several inputs, without running the model.

Everything that reads only the *shape* of a value is cut off and replaced by the symbolic shape under the probe's
lengths; what remains is integer and boolean arithmetic on ranges and on integer inputs such as attention_mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator

from qfa_passes.graph.constants import constant_value
from qfa_passes.graph.dims import Dim
from qfa_passes.graph.ir import Graph, producer
from qfa_passes.graph.shapes import ShapeMap

_LARGEST: Final = 400
_LENGTHS: Final = ((1, 1), (2, 5), (1, 9), (2, 12))
_INTEGER: Final = (np.dtype(np.int64), np.dtype(np.int32), np.dtype(np.bool_))


@dataclass(frozen=True, slots=True)
class _Cone:
    """The nodes that compute a value, cut at shapes, constants and integer inputs."""

    nodes: list[gs.Node]
    inputs: list[gs.Tensor]  # integer graph inputs
    shaped: list[gs.Tensor]  # values whose content follows from lengths


def probe_values(
    graph: Graph, shapes: ShapeMap, tensor: gs.Tensor, extents: Sequence[Dim]
) -> Iterator[tuple[npt.NDArray[np.generic], tuple[int, int]]] | None:
    """Evaluates ``tensor`` in several runs.

    Returns:
        Pairs of (value, numbers for ``extents``), or None if the value depends on more than lengths and integer inputs.
    """
    constant = constant_value(tensor)
    if constant is not None and constant.ndim >= 2:
        return None  # a table of one fixed length says nothing about other lengths
    cone = _cone(graph, shapes, tensor)
    symbols = None if cone is None else _symbols(cone, shapes, extents)
    if cone is None or symbols is None:
        return None
    runs = list(_runs(graph, cone, shapes, tensor, symbols, extents))
    return iter(runs) if all(value is not None for value, _ in runs) else None  # type: ignore[return-value]


def _cone(graph: Graph, shapes: ShapeMap, tensor: gs.Tensor) -> _Cone | None:
    graph_inputs = {value.name for value in graph.gs.inputs}
    members: set[int] = set()
    cone = _Cone([], [], [])
    seen: set[str] = set()
    stack = [tensor]
    while stack:
        value = stack.pop()
        if value.name in seen or not value.name:
            continue
        seen.add(value.name)
        if value.name in graph_inputs:
            if value.dtype is None or np.dtype(value.dtype) not in _INTEGER:
                return None
            cone.inputs.append(value)
            continue
        if isinstance(value, gs.Constant):
            if constant_value(value) is None:
                return None
            continue
        if shapes.content(value) is not None and value is not tensor:
            cone.shaped.append(value)
            continue
        node = producer(value)
        if node is None or node.domain or len(members) > _LARGEST:
            return None
        members.add(id(node))
        stack.extend(node.inputs)
    cone.nodes.extend(node for node in graph.gs.nodes if id(node) in members)
    return cone


def _symbols(cone: _Cone, shapes: ShapeMap, extents: Sequence[Dim]) -> list[str] | None:
    dims = list(extents)
    for value in cone.inputs:
        shape = shapes.shape(value)
        if shape is None:
            return None
        dims.extend(shape)
    for value in cone.shaped:
        content = shapes.content(value)
        assert content is not None
        dims.extend(content.items)
    symbols = {symbol for dim in dims for monomial in dim.terms for symbol in monomial}
    named = all(symbol.isidentifier() and "unk__" not in symbol for symbol in symbols)
    return sorted(symbols) if named else None


def _runs(
    graph: Graph,
    cone: _Cone,
    shapes: ShapeMap,
    tensor: gs.Tensor,
    symbols: list[str],
    extents: Sequence[Dim],
) -> Iterator[tuple[npt.NDArray[np.generic] | None, tuple[int, int]]]:
    evaluator = _evaluator(graph, cone, tensor)
    random = np.random.default_rng(0)
    keys = {symbol for dim in extents for monomial in dim.terms for symbol in monomial}
    for batch, length in _LENGTHS:
        for style in ("ones", "random") if cone.inputs else ("ones",):
            numbers = {symbol: length if symbol in keys else batch for symbol in symbols}
            feeds: dict[str, npt.NDArray[np.generic]] = {}
            for value in cone.inputs:
                shape = tuple(number(dim, numbers) for dim in shapes.shape(value) or ())
                bits = np.ones(shape) if style == "ones" else random.integers(0, 2, shape)
                feeds[value.name] = bits.astype(value.dtype)
            for value in cone.shaped:
                content = shapes.content(value)
                assert content is not None
                items = np.array([number(dim, numbers) for dim in content.items], dtype=np.int64)
                dtype = np.int64 if value.dtype is None else value.dtype
                feeds[value.name] = (items.reshape(()) if content.scalar else items).astype(dtype)
            size = (number(extents[0], numbers), number(extents[1], numbers))
            try:
                yield evaluator.run(None, feeds)[0], size
            except Exception:  # the reference evaluator raises whatever numpy raises
                yield None, size
                return


def _evaluator(graph: Graph, cone: _Cone, tensor: gs.Tensor) -> ReferenceEvaluator:
    inputs = [*cone.inputs, *cone.shaped]
    cut = gs.Graph(nodes=cone.nodes, inputs=inputs, outputs=[tensor], opset=graph.opset)
    proto = gs.export_onnx(cut, do_type_check=False)
    del proto.graph.value_info[:]
    return ReferenceEvaluator(proto)


def number(dim: Dim, numbers: dict[str, int]) -> int:
    """The value of an extent when its symbols have these values."""
    total = 0
    for monomial, factor in dim.terms.items():
        for symbol in monomial:
            factor *= numbers[symbol]
        total += factor
    return total
