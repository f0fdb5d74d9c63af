"""Shapes behind the operators that arrange, repeat, join and part values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import onnx_graphsurgeon as gs

from qfa_passes.graph.axes_input import axes_of
from qfa_passes.graph.dims import Dim, product
from qfa_passes.graph.shapes import Rule, Shape, ShapeMap, broadcast


def _transpose(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape = known.shape(node.inputs[0])
    if shape is None:
        return (None,)
    perm = node.attrs.get("perm") or list(range(len(shape)))[::-1]
    return (tuple(shape[axis] for axis in perm),)


def _reshape(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape, target = known.shape(node.inputs[0]), known.content(node.inputs[1])
    if target is None:
        length = known.shape(node.inputs[1])
        if length and length[0].value is not None:
            return (tuple(Dim.unknown() for _ in range(length[0].value)),)
        return (None,)
    keeps_zero = not node.attrs.get("allowzero", 0)
    dims: list[Dim | None] = []
    for position, item in enumerate(target.items):
        if item == 0 and keeps_zero:
            dims.append(
                shape[position] if shape is not None and position < len(shape) else Dim.unknown()
            )
        elif item == -1:
            dims.append(None)
        else:
            dims.append(item if item.non_negative else Dim.unknown())
    if None in dims:
        known_part = product(tuple(dim for dim in dims if dim is not None))
        rest = product(shape).divide(known_part) if shape is not None else None
        dims[dims.index(None)] = rest or Dim.unknown()
    return (tuple(dim if dim is not None else Dim.unknown() for dim in dims),)


def _expand(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    target = known.content(node.inputs[1])
    if target is None:
        return (None,)
    return (broadcast(known.shape(node.inputs[0]), target.items, trust_names=False),)


def _unsqueeze(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape, axes = known.shape(node.inputs[0]), axes_of(node, known)
    if shape is None or axes is None:
        return (None,)
    rank = len(shape) + len(axes)
    places = {axis % rank for axis in axes}
    rest = iter(shape)
    return (tuple(Dim.of(1) if axis in places else next(rest) for axis in range(rank)),)


def _squeeze(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape, axes = known.shape(node.inputs[0]), axes_of(node, known)
    if shape is None or axes is None:
        return (None,)
    if not axes and any(dim.value is None for dim in shape):
        return (None,)  # which symbols are 1 is a matter of the run
    gone = {axis % len(shape) for axis in axes} or {
        axis for axis, dim in enumerate(shape) if dim == 1
    }
    return (tuple(dim for axis, dim in enumerate(shape) if axis not in gone),)


def _flatten(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape = known.shape(node.inputs[0])
    if shape is None:
        return (None,)
    axis = int(node.attrs.get("axis", 1))
    axis = axis + len(shape) if axis < 0 else axis
    return ((product(shape[:axis]), product(shape[axis:])),)


def _concat(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shapes = [known.shape(tensor) for tensor in node.inputs]
    first = shapes[0]
    if first is None or any(shape is None for shape in shapes):
        return (None,)
    axis = int(node.attrs["axis"]) % len(first)
    total = Dim.of(0)
    for shape in shapes:
        assert shape is not None
        total = total + shape[axis]
    return ((*first[:axis], total, *first[axis + 1 :]),)


def _split(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape = known.shape(node.inputs[0])
    if shape is None or "split" in node.attrs:
        return [None] * len(node.outputs)
    axis = int(node.attrs.get("axis", 0)) % len(shape)
    sizes = known.content(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1].name else None
    parts: list[Dim | None]
    if sizes is not None:
        parts = list(sizes.items)
    else:
        parts = [shape[axis].divide(Dim.of(len(node.outputs)))] * len(node.outputs)
    return [(*shape[:axis], part or Dim.unknown(), *shape[axis + 1 :]) for part in parts]


def _tile(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape, counts = known.shape(node.inputs[0]), known.content(node.inputs[1])
    if shape is None or counts is None or len(counts.items) != len(shape):
        return (None,)
    return (tuple(dim * count for dim, count in zip(shape, counts.items, strict=True)),)


LAYOUT_RULES: Final[dict[str, Rule]] = {
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Expand": _expand,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Flatten": _flatten,
    "Concat": _concat,
    "Split": _split,
    "Tile": _tile,
}
