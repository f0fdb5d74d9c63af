"""Shapes behind the operators that take some elements of a value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.graph.axes_input import axes_of
from qfa_passes.graph.dims import Dim
from qfa_passes.graph.shapes import Rule, Shape, ShapeMap


def _gather(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    data, indices = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    if data is None or indices is None:
        return (None,)
    axis = int(node.attrs.get("axis", 0)) % len(data)
    return ((*data[:axis], *indices, *data[axis + 1 :]),)


def _gather_elements(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    return (known.shape(node.inputs[1]),)


def _gather_nd(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    data, indices = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    if data is None or indices is None or indices[-1].value is None:
        return (None,)
    batch = int(node.attrs.get("batch_dims", 0))  # both have these extents
    return ((*data[:batch], *indices[batch:-1], *data[batch + indices[-1].value :]),)


def _slice(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape = known.shape(node.inputs[0])
    if shape is None or len(node.inputs) < 3:
        return (None,)
    starts, ends = (known.content(tensor) for tensor in node.inputs[1:3])
    axes = axes_of(node, known, position=3)
    steps = known.content(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4].name else None
    if axes == []:
        axes = list(range(len(starts.items))) if starts is not None else None
    if axes is None:
        return (tuple(Dim.unknown() for _ in shape),)
    result = list(shape)
    for position, axis in enumerate(axes):
        step = Dim.of(1) if steps is None else steps.items[position]
        start = None if starts is None else starts.items[position]
        end = None if ends is None else ends.items[position]
        result[axis] = _sliced(shape[axis], start, end) if step == 1 else Dim.unknown()
    return (tuple(result),)


def _sliced(extent: Dim, start: Dim | None, end: Dim | None) -> Dim:
    if start is None or end is None:
        return Dim.unknown()
    if extent.value is not None and start.value is not None and end.value is not None:
        return Dim.of(len(range(extent.value)[start.value : end.value]))
    if end.value is not None and end.value >= np.iinfo(np.int32).max:
        end = extent
    taken = end - start
    inside = start.non_negative and (extent - end).non_negative and taken.non_negative
    return taken if inside else Dim.unknown()


SELECTION_RULES: Final[dict[str, Rule]] = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Slice": _slice,
}
