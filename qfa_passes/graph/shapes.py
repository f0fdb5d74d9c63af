"""Symbolic shapes and contents by value name, and how shapes broadcast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from qfa_passes.graph.dims import Dim
from qfa_passes.graph.shape_values import IntTensor

Shape = tuple[Dim, ...]


@dataclass(slots=True)
class ShapeMap:
    """Shapes and integer contents by value name. A missing entry means: not known."""

    shapes: dict[str, Shape] = field(default_factory=dict)
    contents: dict[str, IntTensor] = field(default_factory=dict)

    def shape(self, tensor: gs.Tensor) -> Shape | None:
        """Symbolic shape of a value."""
        return self.shapes.get(tensor.name)

    def rank(self, tensor: gs.Tensor) -> int | None:
        """Number of axes of a value."""
        shape = self.shapes.get(tensor.name)
        return None if shape is None else len(shape)

    def content(self, tensor: gs.Tensor) -> IntTensor | None:
        """Symbolic content of a small integer tensor."""
        return self.contents.get(tensor.name)


Rule = Callable[[gs.Node, ShapeMap], Sequence[Shape | None]]
"""The shapes of a node's outputs, as far as they are known."""


def broadcast(*shapes: Shape | None, trust_names: bool = True) -> Shape | None:
    """The shape that numpy broadcasting gives, or None if a rank is not known.

    Extents that meet are equal or 1 in every valid run. Where a named symbol meets an anonymous one the result carries
    the name unless ``trust_names`` is off: models do not count on a named extent being 1 to be stretched, except in
    an Expand.
    """
    present = [shape for shape in shapes if shape is not None]
    if len(present) != len(shapes) or not present:
        return None
    rank = max(len(shape) for shape in present)
    result = []
    for axis in range(rank):
        extents = [
            shape[axis - rank + len(shape)] for shape in present if axis - rank + len(shape) >= 0
        ]
        others = list(dict.fromkeys(extent for extent in extents if extent != 1))
        numbers = [extent for extent in others if extent.value is not None]
        named = [extent for extent in others if trust_names and extent.is_symbol]
        candidates = numbers or (named if len(named) == 1 else others)
        if not others:
            result.append(Dim.of(1))
        else:
            result.append(
                candidates[0] if len(candidates) == 1 else Dim.unknown(stretched=not trust_names)
            )
    return tuple(result)
