"""The algebra of layouts: every axis of a view is an ordered product of atoms.

An atom is an axis of the value at the top of a chain of views (or a factor of one), or a repeat. Walking the chain down
tells what became of each axis of the top, for all lengths at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.graph.constants import constant_value
from qfa_passes.graph.dims import Dim, product
from qfa_passes.graph.shapes import Shape, ShapeMap


@dataclass(frozen=True, slots=True)
class Atom:
    """A factor of an axis.

    Attributes:
        extent: Its size.
        source: The top's axis that it is, or None for a repeat.
        part: Tells the halves of a split axis apart, in order; empty for a whole one.
    """

    extent: Dim
    source: int | None
    part: tuple[int, ...] = ()

    @property
    def whole(self) -> bool:
        """True if the atom is an entire axis of the top."""
        return self.source is not None and not self.part

    def split(self, outer: Dim) -> tuple[Atom, Atom] | None:
        """Two atoms, the outer one of extent ``outer``; None if that does not provably divide it."""
        inner = self.extent.divide(outer)
        if inner is None:
            return None
        return (
            Atom(outer, self.source, (*self.part, 0)),
            Atom(inner, self.source, (*self.part, 1)),
        )


Axis = tuple[Atom, ...]
Axes = tuple[Axis, ...]


def whole_axes(shape: Shape) -> Axes:
    """The axes of a top."""
    return tuple((Atom(extent, axis),) for axis, extent in enumerate(shape))


def flat(axes: Iterable[Axis]) -> Axis:
    """All atoms in order, without those of extent 1."""
    return tuple(atom for axis in axes for atom in axis if atom.extent != 1)


def same_axes(one: Axes, other: Axes) -> bool:
    """True if two views have the same axes in the same places."""
    return [flat((axis,)) for axis in one] == [flat((axis,)) for axis in other]


def extent_of(axis: Axis) -> Dim:
    """The extent of an axis."""
    return product(tuple(atom.extent for atom in axis))


def regroup(atoms: Axis, target: Shape) -> Axes | None:
    """Deals atoms out to the extents of a reshaped value, splitting an atom where an extent divides it."""
    rest = [atom for atom in atoms if atom.extent != 1]
    result: list[Axis] = []
    for extent in target:
        taken: list[Atom] = []
        have = Dim.of(1)
        while have != extent:
            if not rest:
                return None
            wanted = extent.divide(have)
            if wanted is None:
                return None
            atom = rest.pop(0)
            if wanted.divide(atom.extent) is None:
                halves = atom.split(wanted)
                if halves is None:
                    return None
                atom = halves[0]
                rest.insert(0, halves[1])
            taken.append(atom)
            have = have * atom.extent
        result.append(tuple(taken))
    return tuple(result) if not rest else None


def through(node: gs.Node, axes: Axes, target: Shape, shapes: ShapeMap) -> Axes | None:
    """What a view node makes of axes; ``target`` is the shape of its output. None if it is not understood."""
    rule = _RULES.get(node.op)
    if rule is not None:
        return rule(node, axes, target, shapes)
    return axes if len(axes) == len(target) else None


def _transpose(node: gs.Node, axes: Axes, target: Shape, shapes: ShapeMap) -> Axes | None:
    perm = node.attrs.get("perm") or list(range(len(axes)))[::-1]
    if sorted(perm) != list(range(len(axes))):
        return None
    return tuple(axes[axis] for axis in perm)


def _reshape(node: gs.Node, axes: Axes, target: Shape, shapes: ShapeMap) -> Axes | None:
    return regroup(flat(axes), target)


def _expand(node: gs.Node, axes: Axes, target: Shape, shapes: ShapeMap) -> Axes | None:
    if len(target) < len(axes):
        return None
    padded: Axes = ((),) * (len(target) - len(axes)) + axes
    result: list[Axis] = []
    for axis, extent in zip(padded, target, strict=True):
        own = extent_of(axis)
        if own == extent:
            result.append(axis)
        elif own == 1:
            result.append((Atom(extent, None),))
        else:
            return None
    return tuple(result)


def _tile(node: gs.Node, axes: Axes, target: Shape, shapes: ShapeMap) -> Axes | None:
    counts = shapes.content(node.inputs[1])
    if counts is None or len(counts.items) != len(axes):
        return None
    return tuple(
        axis if count == 1 else (Atom(count, None), *axis)
        for axis, count in zip(axes, counts.items, strict=True)
    )


def _concat(node: gs.Node, axes: Axes, target: Shape, shapes: ShapeMap) -> Axes | None:
    if any(tensor is not node.inputs[0] for tensor in node.inputs):
        return None
    place = int(node.attrs["axis"]) % len(axes)
    repeat = Atom(Dim.of(len(node.inputs)), None)
    return (*axes[:place], (repeat, *axes[place]), *axes[place + 1 :])


def _gather(node: gs.Node, axes: Axes, target: Shape, shapes: ShapeMap) -> Axes | None:
    """Takes every index of an axis in order, each as often in a row."""
    indices = constant_value(node.inputs[1])
    place = int(node.attrs.get("axis", 0)) % len(axes)
    count = extent_of(axes[place]).value
    if indices is None or indices.ndim != 1 or not count or indices.size % count:
        return None
    times = indices.size // count
    if not np.array_equal(indices.astype(np.int64) % count, np.repeat(np.arange(count), times)):
        return None
    repeat = () if times == 1 else (Atom(Dim.of(times), None),)
    return (*axes[:place], (*axes[place], *repeat), *axes[place + 1 :])


_RULES: Final[dict[str, Callable[[gs.Node, Axes, Shape, ShapeMap], Axes | None]]] = {
    "Transpose": _transpose,
    **dict.fromkeys(("Reshape", "Unsqueeze", "Squeeze", "Flatten"), _reshape),
    "Expand": _expand,
    "Tile": _tile,
    "Concat": _concat,
    "Gather": _gather,
}

RESHAPING: Final = ("Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten")
"""Operators that keep every number and only arrange them anew."""
REPEATING: Final = ("Expand", "Tile", "Concat", "Gather")
"""Operators that may do no more than repeat an axis."""
