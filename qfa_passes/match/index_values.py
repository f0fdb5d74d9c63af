"""Reading the nodes that make a mask as values of the index algebra."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from qfa_passes.graph.constants import constant_value
from qfa_passes.graph.dims import Dim
from qfa_passes.graph.ir import producer
from qfa_passes.graph.shapes import ShapeMap
from qfa_passes.match.context import MatchContext
from qfa_passes.match.index_algebra import (
    ALWAYS,
    NEVER,
    Choice,
    Linear,
    Number,
    Truth,
    Value,
    as_choice,
    as_linear,
)
from qfa_passes.match.index_gather import gathered, gathered_nd
from qfa_passes.match.index_layout import RENAMING, joined, keeps_extents, renamed, settled
from qfa_passes.match.index_operators import ELEMENTWISE, combine
from qfa_passes.match.tables import table_value

_DEEPEST: Final = 100
_WIDE: Final = (np.int64, np.int32, np.float64, np.float32)
"""Types that hold every index; float16 stops at 2048, int8 at 127."""
_ENDLESS: Final = 1 << 62
"""Numbers from here on may overflow when something is added."""


class IndexValues:
    """Values by name, each read once."""

    def __init__(self, shapes: ShapeMap) -> None:
        """Nothing is read yet."""
        self._shapes = shapes
        self._known: dict[str, Value | None] = {}

    def value(self, tensor: gs.Tensor, depth: int = 0) -> Value | None:
        """What a value says about the places of its elements; None if it cannot be told."""
        if tensor.name not in self._known:
            self._known[tensor.name] = None if depth > _DEEPEST else self._read(tensor, depth)
        return self._known[tensor.name]

    def _read(self, tensor: gs.Tensor, depth: int) -> Value | None:
        content = self._shapes.content(tensor)
        if content is not None and len(content.items) == 1:
            return _length(content.items[0], tensor)
        constant = constant_value(tensor)
        if constant is not None:
            return table_value(constant)
        node = producer(tensor)
        shape = self._shapes.shape(tensor)
        if node is None or node.domain or len(node.outputs) != 1:
            return None
        value = self._apply(node, depth + 1)
        if value is not None and shape is not None:
            value = settled(value, shape)
        if isinstance(value, Linear) and not value.slopes and value.constant.value is not None:
            return _length(value.constant, tensor)
        if isinstance(value, Choice) and value.where in (ALWAYS, NEVER):
            return value.yes if value.where == ALWAYS else value.no
        return value if shape is not None or isinstance(value, (int, float)) else None

    def _apply(self, node: gs.Node, depth: int) -> Value | None:
        if node.op == "Range":
            return self._range(node, depth)
        if node.op == "ConstantOfShape":
            fill = node.attrs.get("value")
            constant = np.zeros(1, np.float32) if fill is None else constant_value(fill)
            return None if constant is None else table_value(constant.reshape(-1))
        if node.op in ELEMENTWISE:
            operands = [self.value(tensor, depth) for tensor in node.inputs]
            result = self._shapes.shape(node.outputs[0])
            if result is None or any(operand is None for operand in operands):
                return None
            for operand, tensor in zip(operands, node.inputs, strict=True):
                own = self._shapes.shape(tensor)
                if operand is None or own is None or not keeps_extents(operand, own, result):
                    return None
            return combine(node.op, [operand for operand in operands if operand is not None])
        if node.op == "Concat":
            return joined(node, [self.value(tensor, depth) for tensor in node.inputs], self._shapes)
        if node.op not in RENAMING and node.op not in _OF_ONE:
            return None
        value = self.value(node.inputs[0], depth)
        if value is None:
            return None
        if node.op in ("Gather", "GatherND") and not isinstance(value, (int, float)):
            gather = gathered if node.op == "Gather" else gathered_nd
            return gather(node, value, lambda tensor: self.value(tensor, depth), self._shapes)
        if node.op in RENAMING:
            return renamed(node, value, self._shapes)
        return _OF_ONE[node.op](self, node, value)

    def _range(self, node: gs.Node, depth: int) -> Value | None:
        start, delta = (self.value(node.inputs[position], depth) for position in (0, 2))
        first = None if start is None else as_linear(start)
        step = None if delta is None else as_linear(delta)
        if first is None or step is None or first.slopes or step.slopes:
            return None
        slope = step.constant.value
        return None if slope is None else Linear.of({0: slope}, first.constant)

    def _cumsum(self, node: gs.Node, value: Value) -> Value | None:
        """Ones, summed up along an axis, count from 1; zeros stay zeros."""
        if value == 0:
            return 0
        axis, rank = self.value(node.inputs[1]), self._shapes.rank(node.inputs[0])
        place = None if axis is None else as_linear(axis)
        if value != 1 or node.attrs.get("reverse", 0) or place is None or rank is None:
            return None
        number = place.constant.value
        if number is None or place.slopes:
            return None
        first = 0 if node.attrs.get("exclusive", 0) else 1
        return Linear.of({rank - 1 - number % rank: 1}, Dim.of(first))

    def _trilu(self, node: gs.Node, value: Value) -> Value | None:
        offset = self.value(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1].name else 0
        diagonal = None if offset is None else as_linear(offset)
        if diagonal is None or diagonal.slopes:
            return None
        sign = 1 if node.attrs.get("upper", 1) else -1  # above: j - i >= k; below: i - j >= -k
        kept = Truth(True, (Linear(((0, sign), (1, -sign)), diagonal.constant * Dim.of(-sign)),))
        if isinstance(value, Truth):
            return value.both(kept)
        choice = as_choice(value)
        if isinstance(value, (int, float)):
            return Choice(kept, value, 0)
        return None if choice is None else choice.cleared(kept)


def _length(extent: Dim, tensor: gs.Tensor) -> Value | None:
    """A truth, a number, or a length that is not known before a run."""
    number = extent.value
    if tensor.dtype == np.bool_:
        return None if number is None else ALWAYS if number else NEVER
    if number is None:
        return Linear((), extent)
    return number if abs(number) < _ENDLESS else None


def _cast(_: IndexValues, node: gs.Node, value: Value) -> Value | None:
    dtype = node.outputs[0].dtype
    if isinstance(dtype, int) and dtype == onnx.TensorProto.BFLOAT16:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    if dtype is None or isinstance(dtype, int):
        return None
    kind = np.dtype(dtype)
    if kind == np.bool_:
        choice = as_choice(value)
        return None if choice is None else choice.holds(lambda number: number != 0)
    if isinstance(value, Linear):
        return value if kind in _WIDE else None
    choice = as_choice(value)
    if choice is None:
        return None
    converted = choice.mapped(lambda number: _in_type(number, kind))
    uniform = converted is not None and isinstance(value, (int, float))
    return converted.yes if converted is not None and uniform else converted


def _in_type(number: Number, kind: np.dtype[Any]) -> Number | None:
    if kind.kind in "iu":
        whole = int(number) if math.isfinite(number) else None
        limits = np.iinfo(kind)
        return whole if whole is not None and limits.min <= whole <= limits.max else None
    with np.errstate(over="ignore"):
        return float(np.asarray(number, np.float64).astype(kind))


def _negative(_: IndexValues, __: gs.Node, value: Value) -> Value | None:
    if isinstance(value, Linear):
        return value.times(-1)
    if isinstance(value, Choice):
        return value.mapped(operator.neg)
    return -value if isinstance(value, (int, float)) else None


def _not(_: IndexValues, __: gs.Node, value: Value) -> Value | None:
    return value.negated() if isinstance(value, Truth) else None


def _same(_: IndexValues, __: gs.Node, value: Value) -> Value | None:
    return value


_OF_ONE: Final[dict[str, Callable[[IndexValues, gs.Node, Value], Value | None]]] = {
    "Identity": _same,
    "Cast": _cast,
    "CastLike": _cast,
    "Neg": _negative,
    "Not": _not,
    "CumSum": IndexValues._cumsum,
    "Trilu": IndexValues._trilu,
}


def index_values(context: MatchContext) -> IndexValues:
    """The values of a graph, read once for all its masks."""
    values = context.mask_cache.setdefault(IndexValues, IndexValues(context.shapes))
    assert isinstance(values, IndexValues)
    return values
