"""From one symbolic shape to another by view steps whose numbers are known before a run."""

from __future__ import annotations

from collections.abc import Iterator

from qfa_passes.core.view import View, ViewOp, Views
from qfa_passes.graph.dims import Dim
from qfa_passes.graph.shapes import Shape

_ONE = Dim.of(1)


def reshape_views(source: Shape, target: Shape) -> Views | None:
    """The steps that give a value of shape ``source`` the shape ``target`` (same numbers, same order), or None.

    A Reshape can name fixed extents, keep extents in their place, and leave one open; more open extents are kept by
    putting axes of extent 1 in front or between first.
    """
    if source == target:
        return ()
    plain = _units_only(source, target)
    if plain is not None:
        return plain
    best: Views | None = None
    for before, padded_source in _padded(source, len(target)):
        for after, padded_target in _padded(target, len(source)):
            numbers = _numbers(padded_source, padded_target)
            if numbers is None:
                continue
            views = (
                *((View(ViewOp.UNSQUEEZE, before),) if before else ()),
                View(ViewOp.RESHAPE, numbers),
                *((View(ViewOp.SQUEEZE, after),) if after else ()),
            )
            if best is None or len(views) < len(best):
                best = views
    return best


def _units_only(source: Shape, target: Shape) -> Views | None:
    """Squeeze and Unsqueeze, where the shapes differ in axes of extent 1 only."""
    if [dim for dim in source if dim != 1] != [dim for dim in target if dim != 1]:
        return None
    views: list[View] = []
    gone = tuple(axis for axis, dim in enumerate(source) if dim == 1)
    new = tuple(axis for axis, dim in enumerate(target) if dim == 1)
    if len(gone) <= len(new) and source == tuple(target[len(target) - len(source) :]):
        return (View(ViewOp.UNSQUEEZE, tuple(range(len(target) - len(source)))),)
    if gone:
        views.append(View(ViewOp.SQUEEZE, gone))
    if new:
        views.append(View(ViewOp.UNSQUEEZE, new))
    return tuple(views)


def _padded(shape: Shape, rank: int) -> Iterator[tuple[tuple[int, ...], Shape]]:
    """The shape with as many axes of extent 1 as it lacks, at each place; also the places of those axes."""
    missing = max(rank - len(shape), 0)
    if not missing:
        yield (), shape
        return
    for place in range(len(shape) + 1):
        axes = tuple(range(place, place + missing))
        yield axes, (*shape[:place], *(_ONE,) * missing, *shape[place:])


def _numbers(source: Shape, target: Shape) -> tuple[int, ...] | None:
    numbers = []
    for axis, extent in enumerate(target):
        if extent.value is not None and extent.value > 0:
            numbers.append(extent.value)
        elif axis < len(source) and source[axis] == extent:
            numbers.append(0)
        else:
            numbers.append(-1)
    return tuple(numbers) if numbers.count(-1) <= 1 else None
