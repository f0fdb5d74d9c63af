"""The common core of what fused attention nodes stand for: scores, masks, softmax, values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.graph.contrib.key_masks import KeyMask
from qfa_passes.graph.dims import Dim
from qfa_passes.normalize.causal_keep import Extent, Shared
from qfa_passes.normalize.writer import Writer


@dataclass(frozen=True, slots=True)
class Scores:
    """How scores are made from products: capped, then biased, then masked.

    Attributes:
        scale: Factor on Q K^T.
        softcap: c * tanh(s / c); 0: none.
        biases: Values that are added, each broadcastable to (B, H, S, T).
        keep: Truth value, broadcastable to (B, H, S, T): which scores count; None: all.
        sink: (H), the logit of one more key without a value; None: none.
        guarded: A query that sees no key gets zeros.
    """

    scale: float
    softcap: float = 0.0
    biases: Sequence[gs.Tensor] = ()
    keep: gs.Tensor | None = None
    sink: gs.Tensor | None = None
    guarded: bool = False


def attend(
    writer: Writer, query: gs.Tensor, key_t: gs.Tensor, value: gs.Tensor, scores: Scores
) -> gs.Variable:
    """Writes softmax(scores) V; (B, H, S, D), (B, H, D, T) and (B, H, T, Dv) give (B, H, S, Dv)."""
    product = writer.op("MatMul", "scores", query, key_t)
    if scores.scale != 1:
        product = writer.op("Mul", "scaled", product, writer.real("scale", scores.scale))
    if scores.softcap:
        cap = writer.real("softcap", scores.softcap)
        product = writer.op("Div", "cap_in", product, cap)
        product = writer.op("Mul", "cap_out", writer.op("Tanh", "cap", product), cap)
    for bias in scores.biases:
        product = writer.op("Add", "biased", product, bias)
    if scores.keep is not None:
        hidden = writer.real("hidden", float("-inf"))
        product = writer.op("Where", "masked", scores.keep, product, hidden)
    if scores.sink is None:
        weights = writer.op("Softmax", "softmax", product, axis=-1)
    else:
        weights = _softmax_with_sink(writer, product, scores.sink, query)
    if scores.guarded:
        empty = writer.op("IsNaN", "empty", weights, dtype=np.bool_)
        weights = writer.op("Where", "guarded", empty, writer.real("none", 0.0), weights)
    return writer.op("MatMul", "attention", weights, value)


def _softmax_with_sink(
    writer: Writer, scores: gs.Tensor, sink: gs.Tensor, query: gs.Tensor
) -> gs.Variable:
    """Appends the sink as one more column (B, H, S, 1), and takes its weight away again."""
    logits = writer.reshape("sink_column", sink, 1, -1, 1, 1)
    rows = writer.op("Shape", "rows_shape", query, dtype=np.int64, start=0, end=3)
    target = writer.op(
        "Concat", "sink_shape", rows, writer.numbers("one", 1), dtype=np.int64, axis=0
    )
    column = writer.op("Expand", "sink", logits, target)
    both = writer.op("Concat", "with_sink", scores, column, axis=-1)
    weights = writer.op("Softmax", "softmax", both, axis=-1)
    return writer.cut("without_sink", weights, 3, 0, -1)


def split_heads(
    writer: Writer, step: str, tensor: gs.Tensor, heads: int, channels: int
) -> gs.Variable:
    """(B, rows, heads * channels) to (B, rows, heads, channels)."""
    return writer.reshape(f"{step}_heads", tensor, 0, 0, heads, channels)


def merge_heads(writer: Writer, tensor: gs.Tensor, channels: int) -> gs.Variable:
    """(B, H, S, Dv) to (B, S, H * Dv); ``channels`` is the product."""
    rows = writer.transpose("rows", tensor, 0, 2, 1, 3)
    return writer.reshape("output", rows, 0, 0, channels)


def key_bias(
    writer: Writer,
    shared: Shared,
    mask: gs.Tensor,
    kind: KeyMask,
    fill: float,
    lengths: tuple[Dim, Dim, Dim],
    batch: Extent,
    keys: Extent,
) -> gs.Tensor:
    """What a key mask adds to the scores: 0 or ``fill``, as (B, 1, 1, T) or (B, 1, S, T).

    Args:
        writer: Takes the nodes, unless another block has the same mask.
        shared: What other blocks have.
        mask: The mask.
        kind: What it holds.
        fill: Added to the score of a masked key.
        lengths: S, T and P.
        batch: Where B can be read.
        keys: Where T can be read.
    """
    where = ("mask", mask.name, kind, fill, writer.element, lengths)
    if where not in shared:
        shared[where] = _key_bias(writer, mask, kind, fill, batch, keys)
    return shared[where]


def _key_bias(
    writer: Writer, mask: gs.Tensor, kind: KeyMask, fill: float, batch: Extent, keys: Extent
) -> gs.Tensor:
    if kind in (KeyMask.KEYS, KeyMask.PAIRS):
        zero = writer.constant("mask_zero", np.array(0, dtype=mask.dtype or np.int32))
        keep = writer.op("Greater", "keep", mask, zero, dtype=np.bool_)
        axes = (1, 2) if kind is KeyMask.KEYS else (1,)
    else:
        keep, axes = _within(writer, mask, kind, batch, keys), (1, 2)
    keep = writer.unsqueeze("keep_heads", keep, *axes)
    none, hidden = writer.real("visible", 0.0), writer.real("fill", fill)
    return writer.op("Where", "mask_bias", keep, none, hidden)


def _within(
    writer: Writer, mask: gs.Tensor, kind: KeyMask, batch: Extent, keys: Extent
) -> gs.Variable:
    """(B, T): whether a key lies before the end of its batch, and not before its start."""
    places = writer.count("keys", writer.extent("mask_total", *keys))
    ends: gs.Tensor = writer.wide("mask", mask)
    starts = None
    if kind is not KeyMask.LENGTHS:
        count = writer.reshape("batch_list", writer.extent("batch", *batch), 1)
        if kind is KeyMask.ENDS_STARTS:
            far = writer.numbers("starts_end", np.iinfo(np.int64).max)
            starts = writer.op("Slice", "starts", ends, count, far, dtype=np.int64)
        ends = writer.op("Slice", "ends", ends, writer.numbers("first", 0), count, dtype=np.int64)
    column = writer.unsqueeze("ends_column", ends, 1)
    before = writer.op("Less", "before_end", places, column, dtype=np.bool_)
    if starts is None:
        return before
    column = writer.unsqueeze("starts_column", starts, 1)
    after = writer.op("GreaterOrEqual", "after_start", places, column, dtype=np.bool_)
    return writer.op("And", "between", before, after, dtype=np.bool_)
