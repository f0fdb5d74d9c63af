"""How far away the edges of a mask can lie: the numbers that its comparisons of indices bring in.

A window of 4096 keys looks like the causal triangle at all lengths below. It takes a 4096 somewhere in the nodes that
compute the mask, so their constants tell how long a probe must be. Followed are comparisons of indices, lengths and
constants, each index taken once: sums of such numbers say at which index or length a mask can change at the latest. A
mask that computes anything else keeps its tensor.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.graph.constants import constant_value
from qfa_passes.graph.dims import Dim
from qfa_passes.graph.ir import producer
from qfa_passes.graph.shapes import ShapeMap

_ENDLESS: Final = 1 << 30
"""Numbers from here on stand for infinity: no sequence is that long."""

_MOST_ITEMS: Final = 8
"""A larger constant is a table; what it says about long sequences cannot be told from short ones."""

_RESHAPING: Final = frozenset(("Unsqueeze", "Squeeze", "Reshape", "Expand", "Slice"))
_SHAPED_BY: Final = frozenset(("Reshape", "Expand", "ConstantOfShape"))
_SAME: Final = frozenset(("Transpose", "Identity", "Cast"))
_LOGIC: Final = frozenset(("Not", "And", "Or", "Xor", "Where"))
_COMPARE: Final = frozenset(("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"))


@dataclass(frozen=True, slots=True)
class _Reach:
    """What a value holds: its largest number, and how many indices are in each element (0, 1, or 2 for i - j)."""

    number: float
    indices: int = 0


def symbols_of(dims: Iterable[Dim]) -> set[str] | None:
    """The symbols in extents; None if one is anonymous, that is, may depend on the others."""
    symbols = {symbol for dim in dims for monomial in dim.terms for symbol in monomial}
    named = all(symbol.isidentifier() and "unk__" not in symbol for symbol in symbols)
    return symbols if named else None


def mask_bound(
    nodes: Sequence[gs.Node],
    constants: Sequence[gs.Tensor],
    shaped: Sequence[gs.Tensor],
    shapes: ShapeMap,
    lengths: Collection[str],
) -> float | None:
    """The sum of the numbers in all comparisons that ``nodes`` make; None if the mask is made otherwise."""
    known: dict[str, _Reach | None] = {tensor.name: _constant(tensor) for tensor in constants}
    known.update((tensor.name, _content(tensor, shapes, lengths)) for tensor in shaped)
    total = 0.0
    for node in nodes:
        inputs = [known.get(tensor.name) for tensor in node.inputs if tensor.name]
        data = inputs[:1] if node.op in _RESHAPING else [] if node.op in _SHAPED_BY else inputs
        reaches = [reach for reach in data if reach is not None]
        result = _reach(node, reaches, shapes) if len(reaches) == len(data) else None
        if result is None or (
            result.indices and node.op not in _COMPARE and not _is_exact(node.outputs[0])
        ):
            return None
        if node.op in _COMPARE or node.op == "Trilu":
            total += result.number
            result = _Reach(0) if node.op in _COMPARE else result
        known.update((tensor.name, result) for tensor in node.outputs)
    return total


def _reach(node: gs.Node, inputs: list[_Reach], shapes: ShapeMap) -> _Reach | None:
    indices = sum(reach.indices for reach in inputs)
    largest = max((reach.number for reach in inputs), default=0)
    both = sum(reach.number for reach in inputs)
    if node.op == "Slice" and not _keeps_origin(node, shapes):
        return None
    if node.op in _RESHAPING or node.op in _SAME:
        return inputs[0]
    if node.op == "ConstantOfShape":
        fill = node.attrs.get("value")
        return _Reach(0) if fill is None else _constant(fill)
    if node.op in _LOGIC:
        return _Reach(largest, max((reach.indices for reach in inputs), default=0))
    if node.op == "Range":  # the limit only says how many
        return _Reach(1 + inputs[0].number, 1) if _is(node.inputs[2], 1, shapes) else None
    if node.op == "Trilu":
        return None if indices else _Reach(both)
    if node.op == "Mul":
        return _Reach(largest, indices) if any(map(_is_truth, node.inputs)) else None
    if node.op in _COMPARE or node.op == "Sub":
        return _Reach(both, indices) if indices <= 2 else None
    return _Reach(both, indices) if node.op == "Add" and indices < 2 else None


def _constant(tensor: gs.Tensor) -> _Reach | None:
    value = constant_value(tensor)
    if value is None or value.size > _MOST_ITEMS or value.dtype.kind not in "fiub":
        return None
    numbers = np.abs(value.astype(np.float64)).reshape(-1)
    if np.isnan(numbers).any():
        return None
    return _Reach(float(np.where(numbers >= _ENDLESS, 0, numbers).max(initial=0)))


def _content(tensor: gs.Tensor, shapes: ShapeMap, lengths: Collection[str]) -> _Reach | None:
    content = shapes.content(tensor)
    if content is None:
        return None
    sums = []
    for item in content.items:
        for monomial, factor in item.terms.items():
            if len(monomial) > 1 or (monomial and (abs(factor) > 1 or monomial[0] not in lengths)):
                return None
        sums.append(sum(abs(factor) for factor in item.terms.values()))
    return _Reach(float(max((total if total < _ENDLESS else 0 for total in sums), default=0)))


def _keeps_origin(node: gs.Node, shapes: ShapeMap) -> bool:
    """True for a slice from 0 on in steps of 1."""
    starts = shapes.content(node.inputs[1])
    step = len(node.inputs) < 5 or not node.inputs[4].name or _is(node.inputs[4], 1, shapes)
    return step and starts is not None and all(item == 0 for item in starts.items)


def _is_exact(tensor: gs.Tensor) -> bool:
    """True if the type of a value holds every index; float16 stops at 2048, int8 at 127."""
    return tensor.dtype in (np.int32, np.int64, np.float32, np.float64)


def _is_truth(tensor: gs.Tensor) -> bool:
    """True for a number that is 0 or 1 because it was a truth value."""
    node = producer(tensor)
    return node is not None and node.op == "Cast" and node.inputs[0].dtype == np.bool_


def _is(tensor: gs.Tensor, number: int, shapes: ShapeMap) -> bool:
    value = constant_value(tensor)
    if value is not None:
        return value.size == 1 and bool(value.reshape(-1)[0] == number)
    content = shapes.content(tensor)
    return content is not None and len(content.items) == 1 and content.items[0] == number
