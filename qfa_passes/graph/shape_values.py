"""Symbolic contents of the small integer (and truth) tensors with which exporters compute shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from qfa_passes.graph.constants import constant_value
from qfa_passes.graph.dims import Dim, product


@dataclass(frozen=True, slots=True)
class IntTensor:
    """A scalar or a vector of extents; truth values are 0 and 1."""

    items: tuple[Dim, ...]
    scalar: bool

    @staticmethod
    def of(value: npt.NDArray[np.generic]) -> IntTensor:
        """From an integer or boolean array of rank 0 or 1."""
        items = tuple(Dim.of(int(item)) for item in value.reshape(-1))
        return IntTensor(items, value.ndim == 0)

    @property
    def shape(self) -> tuple[Dim, ...]:
        """() or (length,)."""
        return () if self.scalar else (Dim.of(len(self.items)),)


_INT32_MAX: Final = int(np.iinfo(np.int32).max)
_ABSENT: Final = IntTensor((), scalar=False)
"""Stands for an optional input that is not given."""

Contents = Mapping[str, IntTensor]
Shapes = Mapping[str, tuple[Dim, ...]]
Rule = Callable[[gs.Node, list[IntTensor]], IntTensor | None]


def evaluate(node: gs.Node, contents: Contents, shapes: Shapes) -> IntTensor | None:
    """Returns the symbolic content of a node's first output, or None if it cannot be told."""
    if node.domain or not node.outputs:
        return None
    if node.op == "Shape":
        return _shape(node, shapes)
    if node.op == "Size":
        extents = shapes.get(node.inputs[0].name)
        return None if extents is None else IntTensor((product(extents),), scalar=True)
    if node.op == "Constant":
        value = constant_value(node.outputs[0])
        if value is None or value.ndim > 1 or value.size > 64 or value.dtype.kind not in "iub":
            return None
        return IntTensor.of(value)
    rule = _RULES.get(node.op)
    if rule is None:
        return None
    operands = [contents.get(tensor.name, _ABSENT) for tensor in node.inputs]
    if any(
        operand is _ABSENT and tensor.name
        for operand, tensor in zip(operands, node.inputs, strict=True)
    ):
        return None
    return rule(node, operands)


def split_list(node: gs.Node, contents: Contents) -> list[IntTensor]:
    """Returns the symbolic contents of what a Split makes of a list."""
    whole = contents[node.inputs[0].name]
    if whole.scalar:
        return []
    if len(node.inputs) > 1 and node.inputs[1].name:
        sizes = _numbers(contents[node.inputs[1].name]) or []
    else:
        count = len(node.outputs)
        sizes = [len(whole.items) // count] * count if len(whole.items) % count == 0 else []
    if sum(sizes) != len(whole.items) or len(sizes) != len(node.outputs):
        return []
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    return [
        IntTensor(whole.items[start : start + size], scalar=False)
        for start, size in zip(starts, sizes, strict=True)
    ]


def _shape(node: gs.Node, shapes: Shapes) -> IntTensor | None:
    shape = shapes.get(node.inputs[0].name)
    if shape is None:
        return None
    start, end = int(node.attrs.get("start", 0)), node.attrs.get("end")
    return IntTensor(shape[slice(start, None if end is None else int(end))], scalar=False)


def _numbers(tensor: IntTensor) -> list[int] | None:
    values = [item.value for item in tensor.items]
    return None if any(value is None for value in values) else [int(value or 0) for value in values]


def _pairwise(combine: Callable[[Dim, Dim], Dim | None]) -> Rule:
    def rule(_: gs.Node, operands: list[IntTensor]) -> IntTensor | None:
        left, right = operands
        length = max(len(left.items), len(right.items))
        if len(left.items) not in (1, length) or len(right.items) not in (1, length) or not length:
            return None
        items = []
        for index in range(length):
            item = combine(
                left.items[index % len(left.items)], right.items[index % len(right.items)]
            )
            if item is None:
                return None
            items.append(item)
        return IntTensor(tuple(items), left.scalar and right.scalar)

    return rule


def _quotient(left: Dim, right: Dim) -> Dim | None:
    if left.value is not None and right.value:
        magnitude = abs(left.value) // abs(right.value)  # C semantics: towards zero
        return Dim.of(magnitude if (left.value < 0) == (right.value < 0) else -magnitude)
    exact = left.divide(right)
    if exact is None and left.non_negative and right.non_negative:
        return Dim.unknown()  # symbols stand for non-negative numbers only
    return exact


def _remainder(left: Dim, right: Dim) -> Dim | None:
    if left.value is None or not right.value:
        return Dim.of(0) if right.value is not None and left.divide(right) is not None else None
    return Dim.of(left.value % right.value)  # the sign of the divisor, as in ONNX


def _lesser(left: Dim, right: Dim) -> Dim | None:
    """Of two extents the one that provably is not above the other."""
    if left.value is not None and right.value is not None:
        return Dim.of(min(left.value, right.value))
    difference = right - left
    return left if difference.non_negative else right if (-difference).non_negative else None


def _greater(left: Dim, right: Dim) -> Dim | None:
    lesser = _lesser(left, right)
    return None if lesser is None else right if lesser == left else left


def _equal(left: Dim, right: Dim) -> Dim | None:
    if left == right:
        return Dim.of(1)
    for number, other in ((left.value, right), (right.value, left)):
        if number is not None and other.differs(number):
            return Dim.of(0)
    return None


def _mod(node: gs.Node, operands: list[IntTensor]) -> IntTensor | None:
    return None if node.attrs.get("fmod", 0) else _pairwise(_remainder)(node, operands)


def _negative(node: gs.Node, operands: list[IntTensor]) -> IntTensor | None:
    return IntTensor(tuple(-item for item in operands[0].items), operands[0].scalar)


def _total(node: gs.Node, operands: list[IntTensor]) -> IntTensor | None:
    """The product of a whole vector."""
    if len(operands) > 1 and _numbers(operands[1]) not in ([], [0], [-1]):
        return None
    if node.attrs.get("axes", [0]) not in ([0], [-1]):
        return None
    return IntTensor((product(operands[0].items),), scalar=not node.attrs.get("keepdims", 1))


def _less(left: Dim, right: Dim) -> Dim | None:
    if (right - left - Dim.of(1)).non_negative:
        return Dim.of(1)
    return Dim.of(0) if (left - right).non_negative else None


def _less_or_equal(left: Dim, right: Dim) -> Dim | None:
    return _less(left, right + Dim.of(1))


def _and(left: Dim, right: Dim) -> Dim | None:
    if left == 0 or right == 0:
        return Dim.of(0)
    return Dim.of(1) if left == 1 and right == 1 else None


def _or(left: Dim, right: Dim) -> Dim | None:
    if left == 1 or right == 1:
        return Dim.of(1)
    return Dim.of(0) if left == 0 and right == 0 else None


def _not(node: gs.Node, operands: list[IntTensor]) -> IntTensor | None:
    items = tuple(Dim.of(1) - item for item in operands[0].items)
    return IntTensor(items, operands[0].scalar)


def _gather(node: gs.Node, operands: list[IntTensor]) -> IntTensor | None:
    data, indices = operands[:2]
    numbers = _numbers(indices)
    if numbers is None or any(not -len(data.items) <= index < len(data.items) for index in numbers):
        return None
    return IntTensor(tuple(data.items[index] for index in numbers), indices.scalar)


def _slice(node: gs.Node, operands: list[IntTensor]) -> IntTensor | None:
    if len(operands) < 3 or operands[0].scalar:
        return None
    start, end = _numbers(operands[1]), _numbers(operands[2])
    step = _numbers(operands[4]) if len(operands) > 4 and operands[4] is not _ABSENT else [1]
    if not (start and end and step) or max(len(start), len(end), len(step)) != 1 or not step[0]:
        return None
    return IntTensor(operands[0].items[slice(start[0], end[0], step[0])], scalar=False)


def _concat(node: gs.Node, operands: list[IntTensor]) -> IntTensor | None:
    return IntTensor(tuple(item for tensor in operands for item in tensor.items), scalar=False)


def _unsqueeze(node: gs.Node, operands: list[IntTensor]) -> IntTensor | None:
    axes = node.attrs["axes"] if "axes" in node.attrs else operands[1].items
    return (
        IntTensor(operands[0].items, scalar=False)
        if operands[0].scalar and len(axes) == 1
        else None
    )


def _squeeze(node: gs.Node, operands: list[IntTensor]) -> IntTensor | None:
    return IntTensor(operands[0].items, scalar=True) if len(operands[0].items) == 1 else None


def _same(node: gs.Node, operands: list[IntTensor]) -> IntTensor | None:
    return operands[0]


def _cast(node: gs.Node, operands: list[IntTensor]) -> IntTensor | None:
    target = node.attrs.get("to")  # a numpy type or an ONNX code
    numbers = [item.value for item in operands[0].items]
    if target in (np.bool_, 9):
        if any(number is None for number in numbers):
            return None
        return IntTensor(tuple(Dim.of(int(number != 0)) for number in numbers), operands[0].scalar)
    if target in (np.int32, 6) and any(
        number is not None and abs(number) > _INT32_MAX for number in numbers
    ):
        return None
    return operands[0] if target in (np.int64, np.int32, 6, 7) else None


def _reshape(node: gs.Node, operands: list[IntTensor]) -> IntTensor | None:
    target = _numbers(operands[1])
    if target is None or len(target) > 1:
        return None
    return IntTensor(operands[0].items, scalar=not target)


def _constant_of_shape(node: gs.Node, operands: list[IntTensor]) -> IntTensor | None:
    length = _numbers(operands[0])
    value = node.attrs.get("value")
    fill = np.zeros(1, np.float32) if value is None else constant_value(value)
    if length is None or len(length) > 1 or fill is None or fill.dtype.kind not in "iub":
        return None
    count = length[0] if length else 1
    return (
        IntTensor((Dim.of(int(fill.reshape(-1)[0])),) * count, scalar=not length)
        if count <= 64
        else None
    )


def _where(node: gs.Node, operands: list[IntTensor]) -> IntTensor | None:
    condition, yes, no = operands
    flags = _numbers(condition)
    length = max(len(tensor.items) for tensor in operands)
    if (
        flags is None
        or not length
        or any(len(tensor.items) not in (1, length) for tensor in operands)
    ):
        return None
    chosen = ((yes if flags[index % len(flags)] else no).items for index in range(length))
    items = tuple(source[index % len(source)] for index, source in enumerate(chosen))
    return IntTensor(items, all(tensor.scalar for tensor in operands))


_RULES: Final[dict[str, Rule]] = {
    "Add": _pairwise(lambda left, right: left + right),
    "Sub": _pairwise(lambda left, right: left - right),
    "Mul": _pairwise(lambda left, right: left * right),
    "Div": _pairwise(_quotient),
    "Mod": _mod,
    "Min": _pairwise(_lesser),
    "Max": _pairwise(_greater),
    "Neg": _negative,
    "ReduceProd": _total,
    "Equal": _pairwise(_equal),
    "Less": _pairwise(_less),
    "LessOrEqual": _pairwise(_less_or_equal),
    "Greater": _pairwise(lambda left, right: _less(right, left)),
    "GreaterOrEqual": _pairwise(lambda left, right: _less_or_equal(right, left)),
    "And": _pairwise(_and),
    "Or": _pairwise(_or),
    "Not": _not,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Identity": _same,
    "Cast": _cast,
    "Reshape": _reshape,
    "ConstantOfShape": _constant_of_shape,
    "Where": _where,
}
