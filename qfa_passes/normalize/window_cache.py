"""A cache that keeps the last keys only and evicts them in groups.

Of a batch that has seen T keys it holds the last L(T), in order, from place 0 on. With C places and a window of W it
evicts G = C - W + 1 keys at once: L(T) = T up to C, and T - G * ceil((T - C) / G) beyond.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.normalize.writer import Writer


def resident(
    writer: Writer, step: str, seen: gs.Tensor, room: gs.Tensor, window: int
) -> gs.Variable:
    """L(T) for ``seen`` T (B) and ``room`` C, a scalar."""

    def op(name: str, kind: str, *inputs: gs.Tensor) -> gs.Variable:
        return writer.op(kind, f"{step}_{name}", *inputs, dtype=np.int64)

    group = op("group", "Sub", room, writer.scalar("window_less_one", window - 1))
    over = op("over", "Sub", seen, room)
    rounded = op("rounded", "Sub", op("up", "Add", over, group), writer.scalar("one", 1))
    evicted = op("evicted", "Mul", op("groups", "Div", rounded, group), group)
    fits = writer.op("LessOrEqual", f"{step}_fits", seen, room, dtype=np.bool_)
    return op("resident", "Where", fits, seen, op("left", "Sub", seen, evicted))


def kept(
    writer: Writer,
    step: str,
    keys: gs.Tensor,
    start: gs.Tensor,
    room: gs.Tensor,
    last: gs.Tensor,
) -> gs.Variable:
    """The present cache (B, Hkv, C, D): C of the joined ``keys`` (B, Hkv, C + S, D).

    Args:
        writer: Takes the nodes.
        step: Starts their names.
        keys: Keys that were in the cache, and the new ones.
        start: (B): which of them comes first.
        room: C, scalar.
        last: The index of the last one, scalar; places without a key repeat it.
    """
    places = writer.count(f"{step}_places", room)
    column = writer.unsqueeze(f"{step}_start", start, 1)
    index = writer.op("Add", f"{step}_from", column, places, dtype=np.int64)
    index = writer.op("Min", f"{step}_row", index, last, dtype=np.int64)
    index = writer.unsqueeze(f"{step}_index", index, 1, 3)
    heads = writer.reshape(f"{step}_heads", writer.extent(f"{step}_head_count", keys, 1), 1)
    ones = writer.numbers("ones", 1, 1)
    shape = writer.op(
        "Concat", f"{step}_shape", writer.numbers("first", 1), heads, ones, dtype=np.int64, axis=0
    )
    every = writer.op("Expand", f"{step}_every", index, shape, dtype=np.int64)
    return writer.op("GatherND", step, keys, every, batch_dims=2)
