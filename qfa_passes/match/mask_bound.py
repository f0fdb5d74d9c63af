"""How far away the edges of a mask can lie: the largest number that its arithmetic on indices can bring in.

A window of 4096 keys looks like the causal triangle at all lengths below. It takes a 4096 somewhere in the nodes that
compute the mask, so their constants tell how long a probe must be. Only operators whose effect on that number is plain
are followed; a mask with any other keeps its tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.graph.constants import constant_value
from qfa_passes.graph.dims import Dim
from qfa_passes.graph.ir import producer
from qfa_passes.graph.shapes import ShapeMap

LARGEST_BOUND: Final = 6
"""Sum of the coefficients and the offset of one comparison: `j <= i + past` has 3."""

_ENDLESS: Final = 1 << 30
"""Numbers from here on stand for infinity: no sequence is that long."""

_MOST_ITEMS: Final = 8
"""A larger constant is a table; what it says about long sequences cannot be told from short ones."""

_LARGEST_OF: Final = frozenset(
    (
        *(
            "Unsqueeze",
            "Squeeze",
            "Reshape",
            "Expand",
            "Transpose",
            "Identity",
            "Cast",
            "Concat",
            "ConstantOfShape",
        ),
        *("Not", "And", "Or", "Xor", "Where", "Min", "Max", "Neg"),
    )
)
_SUM_OF: Final = frozenset(
    (
        "Add",
        "Sub",
        "Equal",
        "Less",
        "LessOrEqual",
        "Greater",
        "GreaterOrEqual",
        "Trilu",
        "Slice",
        "Range",
    )
)


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
) -> float | None:
    """The largest bound of any value that ``nodes`` compute; None if there is none."""
    bounds: dict[str, float | None] = {tensor.name: _constant(tensor) for tensor in constants}
    bounds.update((tensor.name, _content(tensor, shapes)) for tensor in shaped)
    largest = 0.0
    for node in nodes:
        inputs = [bounds.get(tensor.name) for tensor in node.inputs if tensor.name]
        known = [bound for bound in inputs if bound is not None]
        bound = _bound(node, known, shapes) if len(known) == len(inputs) else None
        if bound is None:
            return None
        largest = max(largest, bound)
        bounds.update((tensor.name, bound) for tensor in node.outputs)
    return largest


def _bound(node: gs.Node, inputs: list[float], shapes: ShapeMap) -> float | None:
    if node.op in _LARGEST_OF:
        fill = node.attrs.get("value") if node.op == "ConstantOfShape" else None
        return max([*inputs, 0.0 if fill is None else _constant(fill) or 0.0], default=0.0)
    if node.op == "Mul" and any(_is_truth(tensor) for tensor in node.inputs):
        return max(inputs)
    if node.op not in _SUM_OF:
        return None
    if node.op == "Range":  # the limit only says how many
        return 1 + inputs[0] if _is_one(node.inputs[2], shapes) else None
    if node.op == "Slice" and len(node.inputs) > 4 and not _is_one(node.inputs[4], shapes):
        return None
    return sum(inputs)


def _constant(tensor: gs.Tensor) -> float | None:
    value = constant_value(tensor)
    if value is None or value.size > _MOST_ITEMS or value.dtype.kind not in "fiub":
        return None
    numbers = np.abs(value.astype(np.float64)).reshape(-1)
    if np.isnan(numbers).any():
        return None
    return float(np.where(numbers >= _ENDLESS, 0, numbers).max(initial=0))


def _content(tensor: gs.Tensor, shapes: ShapeMap) -> float | None:
    content = shapes.content(tensor)
    if content is None or any(
        len(monomial) > 1 for item in content.items for monomial in item.terms
    ):
        return None
    sums = [sum(abs(factor) for factor in item.terms.values()) for item in content.items]
    return float(max((total if total < _ENDLESS else 0 for total in sums), default=0))


def _is_truth(tensor: gs.Tensor) -> bool:
    """True for a number that is 0 or 1 because it was a truth value."""
    node = producer(tensor)
    return node is not None and node.op == "Cast" and node.inputs[0].dtype == np.bool_


def _is_one(tensor: gs.Tensor, shapes: ShapeMap) -> bool:
    value = constant_value(tensor)
    if value is not None:
        return value.size == 1 and bool(value.reshape(-1)[0] == 1)
    content = shapes.content(tensor)
    return content is not None and len(content.items) == 1 and content.items[0] == 1
