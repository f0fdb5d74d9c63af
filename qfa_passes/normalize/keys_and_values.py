"""Keys and values of a block, joined with those of earlier runs."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from qfa_passes.normalize.causal_keep import Extent
from qfa_passes.normalize.writer import Writer


@dataclass(frozen=True, slots=True)
class Joined:
    """Keys and values as the block reads them.

    Attributes:
        key_t: (B, H, D, T).
        value: (B, H, T, Dv).
        total: Where T can be read.
        present: Keys (B, H, T, D) and values (B, H, T, Dv) for the next run, if there is a past or they came so.
    """

    key_t: gs.Tensor
    value: gs.Tensor
    total: Extent
    present: tuple[gs.Tensor, gs.Tensor] | None


def join(
    writer: Writer,
    key: gs.Tensor,
    value: gs.Tensor,
    past: tuple[gs.Tensor, gs.Tensor] | None,
    *,
    heads_first: bool,
) -> Joined:
    """Puts past keys and values (B, H, P, .) in front.

    Args:
        writer: Takes the nodes.
        key: (B, T, H, D), or (B, H, T, D) if ``heads_first``.
        value: Likewise.
        past: Earlier keys and values, or None.
        heads_first: Layout of ``key`` and ``value``.
    """
    if past is None and not heads_first:
        key_t = writer.transpose("key_t", key, 0, 2, 3, 1)
        return Joined(key_t, writer.transpose("value", value, 0, 2, 1, 3), (key, 1), None)
    if not heads_first:
        key = writer.transpose("new_key", key, 0, 2, 1, 3)
        value = writer.transpose("new_value", value, 0, 2, 1, 3)
    if past is not None:
        key = writer.op("Concat", "keys", past[0], key, axis=2)
        value = writer.op("Concat", "values", past[1], value, axis=2)
    key_t = writer.transpose("key_t", key, 0, 1, 3, 2)
    return Joined(key_t, value, (key, 2), (key, value))


def present_of(
    writer: Writer, joined: Joined, key: gs.Tensor, value: gs.Tensor
) -> tuple[gs.Tensor, gs.Tensor]:
    """Keys and values for the next run; without a past they are values of their own, which the block does not read."""
    if joined.present is not None:
        return joined.present
    return (
        writer.transpose("present_key", key, 0, 2, 1, 3),
        writer.transpose("present_value", value, 0, 2, 1, 3),
    )
