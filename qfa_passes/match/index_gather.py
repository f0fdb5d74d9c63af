"""Gather and GatherND whose indices are linear themselves, as exporters of vectorized masks write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_graphsurgeon as gs

from qfa_passes.graph.dims import Dim
from qfa_passes.graph.ir import is_op, producer
from qfa_passes.graph.shapes import ShapeMap
from qfa_passes.match.index_algebra import Linear, Value, as_linear, moved

Read = Callable[[gs.Tensor], Value | None]


def gathered(node: gs.Node, value: Value, read: Read, shapes: ShapeMap) -> Value | None:
    """Elements along one axis, at places that ``read`` knows."""
    rank, index_rank = (shapes.rank(tensor) for tensor in node.inputs[:2])
    places = _index(node.inputs[1], read)
    if rank is None or index_rank is None or places is None:
        return None
    gone = rank - 1 - int(node.attrs.get("axis", 0)) % rank
    axes = {axis: axis if axis < gone else axis - 1 + index_rank for axis in range(rank)}
    return _replaced(value, {gone: _shifted(places, gone)}, axes)


def gathered_nd(node: gs.Node, value: Value, read: Read, shapes: ShapeMap) -> Value | None:
    """Elements at places that are put together from one index for each axis."""
    rank, result = shapes.rank(node.inputs[0]), shapes.rank(node.outputs[0])
    indices = producer(node.inputs[1])
    index_rank = shapes.rank(node.inputs[1])
    if (
        rank is None
        or index_rank is None
        or result != index_rank - 1
        or node.attrs.get("batch_dims")
    ):
        return None
    if not is_op(indices, "Concat") or len(indices.inputs) != rank:
        return None
    if int(indices.attrs["axis"]) not in (-1, index_rank - 1):
        return None
    places: dict[int, Linear] = {}
    for position, tensor in enumerate(indices.inputs):
        shape, index = shapes.shape(tensor), _index(tensor, read)
        if not shape or shape[-1] != 1:
            return None  # two indices in one
        if index is not None:
            places[rank - 1 - position] = _shifted(index, -1)
    return _replaced(value, places, {})


def _index(tensor: gs.Tensor, read: Read) -> Linear | None:
    """An index that is never negative, which would count from the end."""
    value = read(tensor)
    index = None if value is None else as_linear(value)
    if index is None or not index.constant.non_negative:
        return None
    return index if all(slope > 0 for _, slope in index.slopes) else None


def _shifted(linear: Linear, by: int) -> Linear:
    slopes = {axis + by: slope for axis, slope in linear.slopes}
    return Linear.of(slopes, linear.constant)


def _replaced(value: Value, places: Mapping[int, Linear], axes: Mapping[int, int]) -> Value | None:
    """The value with the indices of some axes given by others, and the rest renamed."""

    def move(linear: Linear) -> Linear | None:
        result = Linear((), linear.constant)
        for axis, slope in linear.slopes:
            if axis in places:
                result = result.plus(places[axis].times(slope))
            elif axis in axes:
                result = result.plus(Linear.of({axes[axis]: slope}, Dim.of(0)))
            else:
                return None
        return result

    return moved(value, move)
