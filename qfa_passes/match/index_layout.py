"""How a change of layout renames the indices of a value: Reshape, Unsqueeze, Expand, Transpose, Slice and their kin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_graphsurgeon as gs

from qfa_passes.graph.constants import constant_value
from qfa_passes.graph.dims import Dim
from qfa_passes.graph.shape_values import IntTensor
from qfa_passes.graph.shapes import Shape, ShapeMap
from qfa_passes.match.index_algebra import Linear, Value, as_linear, linears_of, moved

RENAMING = frozenset(
    (
        "Reshape",
        "Unsqueeze",
        "Squeeze",
        "Flatten",
        "Expand",
        "Tile",
        "Transpose",
        "Slice",
        "Gather",
        "GatherND",
        "GatherElements",
    )
)


def renamed(node: gs.Node, value: Value, shapes: ShapeMap) -> Value | None:
    """What a layout operator makes of the value of its first input."""
    if isinstance(value, (int, float)):
        return value  # the same everywhere
    before, after = shapes.shape(node.inputs[0]), shapes.shape(node.outputs[0])
    if before is None or after is None or node.op.startswith("Gather"):
        return None
    if node.op == "Slice":
        return _sliced(node, value, before, shapes)
    places = _places(node, before, after)
    return None if places is None else moved(value, lambda linear: _with_axes(linear, places))


def joined(node: gs.Node, values: Sequence[Value | None], shapes: ShapeMap) -> Value | None:
    """Values put one after another: the same number, or linear ones of which each goes on where the last one ends."""
    first = values[0]
    if isinstance(first, (int, float)) and all(value == first for value in values):
        return first
    parts = [None if value is None else as_linear(value) for value in values]
    inputs = [shapes.shape(tensor) for tensor in node.inputs]
    shape = shapes.shape(node.outputs[0])
    if shape is None or None in inputs:
        return None
    axis = len(shape) - 1 - int(node.attrs["axis"]) % len(shape)
    extents = [own[-1 - axis] for own in inputs if own is not None]
    # A part of one element says nothing of the slope along the axis; longer ones do.
    telling = [part for part, extent in zip(parts, extents, strict=True) if extent != 1]
    slopes = {part.slopes for part in telling or parts if part is not None}
    if len(slopes) != 1:
        return None
    (slope,) = slopes
    result, offset = None, Dim.of(0)
    for part, extent in zip(parts, extents, strict=True):
        if part is None:
            return None
        here = Linear(slope, part.constant - Dim.of(dict(slope).get(axis, 0)) * offset)
        single = tuple(entry for entry in slope if entry[0] != axis)
        if part.slopes not in (slope, single) or (part.slopes == single != slope and extent != 1):
            return None
        if result is not None and here != result:
            return None
        result, offset = here, offset + extent
    return result


def settled(value: Value, shape: Shape) -> Value | None:
    """The value without the indices of axes of extent 1, which are 0; None if it has axes that the shape has not."""
    if any(axis >= len(shape) for linear in linears_of(value) for axis, _ in linear.slopes):
        return None
    single = {axis for axis, extent in enumerate(reversed(shape)) if extent == 1}
    return moved(
        value,
        lambda linear: Linear.of(
            {axis: slope for axis, slope in linear.slopes if axis not in single}, linear.constant
        ),
    )


def keeps_extents(value: Value, own: Shape, result: Shape) -> bool:
    """True if no axis whose index the value holds is stretched on the way to ``result``."""
    axes = {axis for linear in linears_of(value) for axis, _ in linear.slopes}
    return all(
        axis < min(len(own), len(result)) and own[-1 - axis] == result[-1 - axis] for axis in axes
    )


def _with_axes(linear: Linear, places: Mapping[int, int]) -> Linear | None:
    if any(axis not in places for axis, _ in linear.slopes):
        return None
    return Linear.of({places[axis]: slope for axis, slope in linear.slopes}, linear.constant)


def _places(node: gs.Node, before: Shape, after: Shape) -> dict[int, int] | None:
    """Where each axis goes, both counted from the last."""
    rank = len(before)
    if node.op == "Transpose":
        perm = node.attrs.get("perm") or list(range(rank))[::-1]
        return {rank - 1 - axis: rank - 1 - place for place, axis in enumerate(perm)}
    if node.op in ("Expand", "Tile"):
        return {
            axis: axis
            for axis in range(min(rank, len(after)))
            if before[-1 - axis] == after[-1 - axis]
        }
    # What is left only adds or removes axes of extent 1, or cannot be followed.
    old = [axis for axis in range(rank) if before[-1 - axis] != 1]
    new = [axis for axis in range(len(after)) if after[-1 - axis] != 1]
    if [before[-1 - axis] for axis in old] != [after[-1 - axis] for axis in new]:
        return None
    return dict(zip(old, new, strict=True))


def _sliced(node: gs.Node, value: Value, before: Shape, shapes: ShapeMap) -> Value | None:
    if len(node.inputs) < 3:
        return None
    starts = shapes.content(node.inputs[1])
    axes = _numbers(node, 3, shapes)
    steps = _numbers(node, 4, shapes)
    if starts is None or axes is None or steps is None or any(step < 1 for step in steps):
        return None
    axes = axes or list(range(len(starts.items)))
    steps = steps or [1] * len(axes)
    if not len(axes) == len(steps) == len(starts.items):
        return None
    shifts: dict[int, tuple[Dim, int]] = {}
    for axis, start, step in zip(axes, starts.items, steps, strict=True):
        first = _from_start(start, before[axis])
        if first is None:
            return None
        shifts[len(before) - 1 - axis % len(before)] = (first, step)
    return moved(value, lambda linear: _shifted(linear, shifts))


def _shifted(linear: Linear, shifts: Mapping[int, tuple[Dim, int]]) -> Linear:
    """An element at index n of an axis comes from first + n * step."""
    slopes, constant = dict(linear.slopes), linear.constant
    for axis, (first, step) in shifts.items():
        slope = slopes.get(axis, 0)
        slopes[axis] = slope * step
        constant = constant + Dim.of(slope) * first
    return Linear.of(slopes, constant)


def _from_start(start: Dim, extent: Dim) -> Dim | None:
    """The index that a start means; None if it may be negative or cut off."""
    if start.value is not None and start.value < 0:
        start = extent + start
    return start if start.non_negative else None


def _numbers(node: gs.Node, position: int, shapes: ShapeMap) -> list[int] | None:
    """The numbers in an input, none if it is left out; None if they are not known."""
    if len(node.inputs) <= position or not node.inputs[position].name:
        return []
    value = constant_value(node.inputs[position])
    if value is not None:
        return [int(item) for item in value.reshape(-1)]
    content: IntTensor | None = shapes.content(node.inputs[position])
    numbers = [None] if content is None else [item.value for item in content.items]
    return None if None in numbers else [number for number in numbers if number is not None]
