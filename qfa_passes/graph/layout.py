"""Symbolic extents of attention in its canonical layout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qfa_passes.core.site import AttentionSite, Operand
from qfa_passes.core.view import View, ViewOp
from qfa_passes.graph.dims import Dim, product
from qfa_passes.graph.shapes import Shape, ShapeMap, broadcast


@dataclass(frozen=True, slots=True)
class Layout:
    """Symbolic extents of a site in canonical layout, where they are known.

    Attributes:
        batch: B.
        queries: S.
        keys: New keys, without past ones.
        past: P; None without a cache.
    """

    batch: Dim
    queries: Dim
    keys: Dim
    past: Dim | None

    @staticmethod
    def of(site: AttentionSite, shapes: ShapeMap) -> Layout:
        """Reads the shapes of a site's operands."""
        query, key = (canonical(shapes, operand) for operand in (site.query, site.key))
        past = None
        if site.cache is not None:
            shape = shapes.shapes.get(site.cache.past_key)
            past = Dim.unknown() if shape is None or len(shape) != 4 else shape[2]
        return Layout(query[0], query[2], key[2], past)

    @property
    def all_keys(self) -> Dim:
        """T, past keys included."""
        return self.keys if self.past is None else self.keys + self.past


def canonical(shapes: ShapeMap, operand: Operand) -> Shape:
    """(B, heads, rows, channels) of an operand; new symbols where they are not known."""
    shape = shapes.shapes.get(operand.tensor)
    viewed = None if shape is None else viewed_shape(shape, operand.views)
    return viewed if viewed is not None and len(viewed) == 4 else (Dim.unknown(),) * 4


def viewed_shape(shape: Shape, views: Iterable[View]) -> Shape | None:
    """The symbolic shape after some views; None if they do not fit."""
    for view in views:
        if view.op is ViewOp.TRANSPOSE:
            if sorted(view.numbers) != list(range(len(shape))):
                return None
            shape = tuple(shape[axis] for axis in view.numbers)
        elif view.op is ViewOp.UNSQUEEZE:
            rest = iter(shape)
            rank = len(shape) + len(view.numbers)
            shape = tuple(Dim.of(1) if axis in view.numbers else next(rest) for axis in range(rank))
        elif view.op is ViewOp.SQUEEZE:
            shape = tuple(dim for axis, dim in enumerate(shape) if axis not in view.numbers)
        elif view.op is ViewOp.RESHAPE:
            shape = _reshaped(shape, view.numbers)
        elif view.op is ViewOp.EXPAND:
            expanded = broadcast(shape, tuple(map(Dim.of, view.numbers)), trust_names=False)
            shape = expanded or shape
    return shape


def _reshaped(shape: Shape, numbers: Sequence[int]) -> Shape:
    known = [
        Dim.of(extent) if extent else (shape[axis] if axis < len(shape) else Dim.unknown())
        for axis, extent in enumerate(numbers)
        if extent >= 0
    ]
    rest = product(shape).divide(product(tuple(known))) or Dim.unknown()
    parts = iter(known)
    return tuple(rest if extent < 0 else next(parts) for extent in numbers)
