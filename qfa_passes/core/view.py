"""Views: another shape, order of axes or float type for the same numbers, as a short list of steps.

They say how a value of the graph becomes an operand of attention in its canonical layout, and how the canonical output
becomes the value that the graph wants.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class ViewOp(StrEnum):
    """The ONNX operators of views."""

    TRANSPOSE = "Transpose"  # numbers: the permutation
    RESHAPE = "Reshape"  # numbers: the shape; 0 keeps the axis at that place, -1 takes what is left
    UNSQUEEZE = "Unsqueeze"  # numbers: the new axes, in the result
    SQUEEZE = "Squeeze"  # numbers: the axes that go, all of extent 1
    EXPAND = "Expand"  # numbers: the shape to broadcast with; 1 keeps the axis at that place
    CAST = "Cast"  # numbers: the ONNX element type, one of the floats


@dataclass(frozen=True, slots=True)
class View:
    """One step; ``numbers`` are its permutation, shape or axes."""

    op: ViewOp
    numbers: tuple[int, ...]

    def apply(self, array: Array) -> Array:
        """The step on an array."""
        if self.op is ViewOp.TRANSPOSE:
            return array.transpose(self.numbers)
        if self.op is ViewOp.EXPAND:
            return np.broadcast_to(array, np.broadcast_shapes(array.shape, self.numbers))
        if self.op is ViewOp.CAST:
            return array.astype(_dtype(self.numbers[0]))
        if self.op is ViewOp.RESHAPE:
            return array.reshape(
                [
                    array.shape[axis] if extent == 0 else extent
                    for axis, extent in enumerate(self.numbers)
                ]
            )
        shape = list(array.shape)
        if self.op is ViewOp.UNSQUEEZE:
            for axis in sorted(self.numbers):
                shape.insert(axis, 1)
        else:
            shape = [extent for axis, extent in enumerate(shape) if axis not in self.numbers]
        return array.reshape(shape)


Views = tuple[View, ...]

_DTYPES: Final = {1: np.float32, 10: np.float16, 11: np.float64}


def _dtype(code: int) -> npt.DTypeLike:
    """The numpy type for an ONNX float; bfloat16 has none of its own, and float32 holds all its numbers."""
    return _DTYPES.get(code, np.float32)


def apply_views(array: Array, views: Iterable[View]) -> Array:
    """All steps in order."""
    for view in views:
        array = view.apply(array)
    return array


def rank_after(views: Iterable[View], rank: int = 4) -> int:
    """Number of axes that a value of ``rank`` axes has after all steps."""
    change = {ViewOp.UNSQUEEZE: 1, ViewOp.SQUEEZE: -1}
    for view in views:
        if view.op is ViewOp.RESHAPE:
            rank = len(view.numbers)
        else:
            rank += change.get(view.op, 0) * len(view.numbers)
    return rank


def permute(*perm: int) -> Views:
    """A Transpose; nothing for the identity."""
    return () if perm == tuple(range(len(perm))) else (View(ViewOp.TRANSPOSE, perm),)


def split_heads(heads: int, channels: int) -> Views:
    """(B, rows, heads * channels) to (B, heads, rows, channels)."""
    return (View(ViewOp.RESHAPE, (0, 0, heads, channels)), *permute(0, 2, 1, 3))


def merge_heads(heads: int, channels: int) -> Views:
    """(B, heads, rows, channels) to (B, rows, heads * channels)."""
    return (*permute(0, 2, 1, 3), View(ViewOp.RESHAPE, (0, 0, heads * channels)))
