"""Shapes behind the operators of images and signals: batch and channels, and what else is told by constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.graph.constants import constant_value
from qfa_passes.graph.dims import Dim
from qfa_passes.graph.shapes import Rule, Shape, ShapeMap


def _open(count: int) -> list[Dim]:
    return [Dim.unknown() for _ in range(count)]


def _conv(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    """A convolution of width 1 keeps the other extents."""
    shape, weight = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    if shape is None or weight is None:
        return (None,)
    strides = node.attrs.get("strides") or [1] * (len(shape) - 2)
    same = not any(node.attrs.get("pads") or ()) and all(stride == 1 for stride in strides)
    rest = [
        dim if same and size == 1 else Dim.unknown()
        for dim, size in zip(shape[2:], weight[2:], strict=True)
    ]
    return ((shape[0], weight[0], *rest),)


def _conv_transpose(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape, weight = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    if shape is None or weight is None:
        return (None,)
    channels = weight[1] * Dim.of(int(node.attrs.get("group", 1)))
    return ((shape[0], channels, *_open(len(shape) - 2)),)


def _pool(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape = known.shape(node.inputs[0])
    if shape is None or len(node.outputs) > 1:
        return (None,)
    rest = _open(len(shape) - 2)
    return (
        (*shape[:2], *(Dim.of(1) for _ in rest)) if "Global" in node.op else (*shape[:2], *rest),
    )


def _resize(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape = known.shape(node.inputs[0])
    if shape is None or node.attrs.get("axes"):
        return (None,)
    if len(node.inputs) > 3 and node.inputs[3].name:
        sizes = known.content(node.inputs[3])
        plain = node.attrs.get("keep_aspect_ratio_policy", "stretch") in ("stretch", b"stretch")
        fits = plain and sizes is not None and len(sizes.items) == len(shape)
        return (sizes.items if fits and sizes is not None else None,)
    scales = constant_value(node.inputs[2]) if len(node.inputs) > 2 else None
    if scales is None or scales.size != len(shape):
        return (None,)
    factors = np.asarray(scales, dtype=np.float64).reshape(-1)
    return (
        tuple(
            dim * Dim.of(int(factor)) if factor == int(factor) else Dim.unknown()
            for dim, factor in zip(shape, factors, strict=True)
        ),
    )


def _pad(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape, pads = known.shape(node.inputs[0]), known.content(node.inputs[1])
    if shape is None:
        return (None,)
    every = len(node.inputs) < 4 or not node.inputs[3].name  # not for some axes only
    if pads is None or not every or len(pads.items) != 2 * len(shape):
        return (tuple(Dim.unknown() for _ in shape),)
    both = zip(shape, pads.items[: len(shape)], pads.items[len(shape) :], strict=True)
    dims = [dim + before + after for dim, before, after in both]
    # Below 0, where padding takes away more than there is, the sum is not what a runtime makes of it.
    return (tuple(dim if dim.non_negative else Dim.unknown() for dim in dims),)


def _top_k(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape, count = known.shape(node.inputs[0]), known.content(node.inputs[1])
    if shape is None:
        return (None, None)
    axis = int(node.attrs.get("axis", -1)) % len(shape)
    kept = Dim.unknown() if count is None else count.items[0]
    return ((*shape[:axis], kept, *shape[axis + 1 :]),) * 2


def _arg(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape = known.shape(node.inputs[0])
    if shape is None:
        return (None,)
    axis = int(node.attrs.get("axis", 0)) % len(shape)
    kept = (Dim.of(1),) if node.attrs.get("keepdims", 1) else ()
    return ((*shape[:axis], *kept, *shape[axis + 1 :]),)


SPATIAL_RULES: Final[dict[str, Rule]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _pool),
    "Resize": _resize,
    "Pad": _pad,
    "TopK": _top_k,
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
}
