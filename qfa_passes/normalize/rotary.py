"""Rotary position embedding in plain operators."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from qfa_passes.graph.contrib.grouped import Grouped
from qfa_passes.normalize.causal_keep import Shared
from qfa_passes.normalize.writer import Writer


def angles(
    writer: Writer, shared: Shared, request: Grouped, positions: gs.Tensor
) -> tuple[gs.Tensor, gs.Tensor]:
    """Cosines and sines of the positions, (B or 1, 1, S, rotary / 2)."""
    found = []
    for name in ("cos_cache", "sin_cache"):
        table = request.fused.inputs[name]
        where = ("angles", table.name, id(positions))
        if where not in shared:
            rows = writer.op("Gather", name, table, positions, axis=0)
            shared[where] = writer.unsqueeze(f"{name}_heads", rows, 1)
        found.append(shared[where])
    return found[0], found[1]


def rotate(
    writer: Writer,
    step: str,
    tensor: gs.Tensor,
    angles: tuple[gs.Tensor, gs.Tensor],
    request: Grouped,
) -> gs.Variable:
    """Rotates the first channels of (B, heads, S, D); the others pass."""
    half, rest = request.rotary // 2, request.channels - request.rotary
    sizes = [size for size in (request.rotary, rest) if size]
    parts = writer.split(f"{step}_rotated_part", tensor, sizes, 3)
    if request.interleaved:
        pairs = writer.reshape(f"{step}_pairs", parts[0], 0, 0, 0, half, 2)
        left, right = (
            writer.reshape(f"{step}_pair_{place}", part, 0, 0, 0, half)
            for place, part in enumerate(writer.split(f"{step}_unpaired", pairs, [1, 1], 4))
        )
    else:
        left, right = writer.split(f"{step}_halves", parts[0], [half, half], 3)
    cos, sin = angles
    first = writer.op(
        "Sub",
        f"{step}_first",
        writer.op("Mul", f"{step}_left_cos", left, cos),
        writer.op("Mul", f"{step}_right_sin", right, sin),
    )
    second = writer.op(
        "Add",
        f"{step}_second",
        writer.op("Mul", f"{step}_left_sin", left, sin),
        writer.op("Mul", f"{step}_right_cos", right, cos),
    )
    if not request.interleaved:
        return writer.op("Concat", f"{step}_rotated", first, second, *parts[1:], axis=3)
    columns = [
        writer.unsqueeze(f"{step}_{name}_column", part, 4)
        for name, part in (("first", first), ("second", second))
    ]
    paired = writer.op("Concat", f"{step}_paired", *columns, axis=4)
    rotated = writer.reshape(f"{step}_unfolded", paired, 0, 0, 0, request.rotary)
    return writer.op("Concat", f"{step}_rotated", rotated, *parts[1:], axis=3) if rest else rotated
