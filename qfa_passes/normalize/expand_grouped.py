"""``com.microsoft::GroupQueryAttention`` in plain operators.

Its cache is a buffer (B, Hkv, P, D) of which batch b holds past[b] keys; the new keys go right behind those, and the
rest of the result, which has L = max(P, total) places, is zero. A run whose S is the total length is the first one and
has no past, whatever the buffer holds.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.graph.contrib.grouped import Grouped
from qfa_passes.normalize.attention_writer import Scores, attend, merge_heads, split_heads
from qfa_passes.normalize.cache_masks import padded_bias, visible
from qfa_passes.normalize.cache_places import cache_places, joined, positions
from qfa_passes.normalize.causal_keep import Shared
from qfa_passes.normalize.rotary import angles, rotate
from qfa_passes.normalize.window_cache import kept
from qfa_passes.normalize.writer import Writer


def expand_grouped(writer: Writer, shared: Shared, request: Grouped) -> None:
    """Writes what the node computes and gives it to the node's outputs."""
    fused, inputs = request.fused, request.fused.inputs
    query, key, value = _heads_first(writer, request)
    cache = cache_places(writer, shared, request)
    if request.rotary:
        turned = angles(writer, shared, request, positions(writer, shared, request, cache))
        query = rotate(writer, "query", query, turned, request)
        key = rotate(writer, "key", key, turned, request)
    bias = inputs.get("attention_bias")
    if cache.past is not None:
        key = joined(writer, shared, "keys", inputs["past_key"], key, cache)
        value = joined(writer, shared, "values", inputs["past_value"], value, cache)
        bias = None if bias is None else padded_bias(writer, bias, cache)
    sink = _sink(writer, request)
    scores = Scores(
        request.scale,
        request.softcap,
        biases=[] if bias is None else [bias],
        keep=visible(writer, shared, request, cache, key),
        sink=sink,
        guarded=request.window > 0 and not request.evicts and sink is None,
    )
    key_t = writer.transpose("key_t", _repeated(writer, "key", key, request), 0, 1, 3, 2)
    result = attend(writer, query, key_t, _repeated(writer, "value", value, request), scores)
    merged = merge_heads(writer, result, request.heads * request.channels)
    writer.give(merged, fused.outputs[0])
    for name, tensor, output in zip(
        ("present_key", "present_value"), (key, value), fused.outputs[1:], strict=False
    ):
        if not output.name:
            continue
        if cache.present is not None:
            last = writer.extent(f"{name}_count", tensor, 2)
            last = writer.op("Sub", f"{name}_last", last, writer.scalar("one", 1), dtype=np.int64)
            tensor = kept(writer, name, tensor, cache.present, cache.room, last)
        writer.give_any(tensor, output)


def _heads_first(writer: Writer, request: Grouped) -> list[gs.Tensor]:
    """Q, K and V as (B, heads, S, D)."""
    inputs = request.fused.inputs
    counts = (request.heads, request.kv_heads, request.kv_heads)
    names = ("query", "key", "value")
    if request.packed:
        sizes = [count * request.channels for count in counts]
        rows = writer.split("unpacked", inputs["query"], sizes, 2)
    else:
        rows = [inputs[name] for name in names]
    return [
        writer.transpose(
            f"{name}_heads_first",
            split_heads(writer, name, tensor, count, request.channels),
            0,
            2,
            1,
            3,
        )
        for name, tensor, count in zip(names, rows, counts, strict=True)
    ]


def _repeated(writer: Writer, step: str, tensor: gs.Tensor, request: Grouped) -> gs.Tensor:
    """(B, Hkv, T, D) to (B, H, T, D): each head as often as query heads share it."""
    group = request.heads // request.kv_heads
    if group == 1:
        return tensor
    apart = writer.unsqueeze(f"{step}_group", tensor, 2)
    target = writer.numbers(f"{step}_group_shape", 1, 1, group, 1, 1)
    often = writer.op("Expand", f"{step}_repeated", apart, target)
    return writer.reshape(f"{step}_per_head", often, 0, request.heads, -1, request.channels)


def _sink(writer: Writer, request: Grouped) -> gs.Tensor | None:
    sink = request.fused.inputs.get("head_sink")
    if sink is None and request.smooth:
        sink = writer.constant("no_logit", np.zeros(request.heads, request.element))
    return sink
