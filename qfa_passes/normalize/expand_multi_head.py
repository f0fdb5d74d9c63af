"""``com.microsoft::MultiHeadAttention`` in plain operators."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from qfa_passes.graph.contrib.multi_head import MultiHead, Packing
from qfa_passes.graph.dims import Dim
from qfa_passes.normalize.attend_ungrouped import attend_ungrouped
from qfa_passes.normalize.attention_writer import split_heads
from qfa_passes.normalize.causal_keep import Shared
from qfa_passes.normalize.keys_and_values import join, present_of
from qfa_passes.normalize.writer import Writer


def expand_multi_head(writer: Writer, shared: Shared, request: MultiHead) -> None:
    """Writes what the node computes and gives it to the node's outputs."""
    fused, inputs = request.fused, request.fused.inputs
    query, key, value = _rows(writer, request)
    heads_first = request.packing is Packing.HEADS_FIRST
    past = (inputs["past_key"], inputs["past_value"]) if "past_key" in inputs else None
    joined = join(writer, key, value, past, heads_first=heads_first)
    attend_ungrouped(
        writer,
        shared,
        request,
        query,
        joined,
        past_key=None if past is None else past[0],
        mask_input="key_padding_mask",
        lengths=_lengths(request),
    )
    wanted = fused.output(1), fused.output(2)
    if any(wanted):
        for output, tensor in zip(wanted, present_of(writer, joined, key, value), strict=True):
            if output is not None:
                writer.give_any(tensor, output)


def _rows(writer: Writer, request: MultiHead) -> tuple[gs.Tensor, gs.Tensor, gs.Tensor]:
    """Q (B, S, H, D), and K and V as (B, T, H, channels) or, if they came so, (B, H, T, channels)."""
    inputs, heads = request.fused.inputs, request.heads
    sizes = [heads * request.channels] * 2 + [heads * request.v_channels]
    widths = (request.channels, request.channels, request.v_channels)
    bias = writer.split("bias", inputs["bias"], sizes, 0) if "bias" in inputs else None
    if request.packing in (Packing.PACKED_QKV, Packing.PACKED_KV):
        name, count = ("query", 3) if request.packing is Packing.PACKED_QKV else ("key", 2)
        packed = writer.split("unpacked", inputs[name], [1] * count, 3)
        rows = [
            writer.reshape(f"unpacked_{place}", part, 0, 0, heads, request.channels)
            for place, part in enumerate(packed)
        ]
        if request.packing is Packing.PACKED_KV:
            rows.insert(0, split_heads(writer, "query", inputs["query"], heads, widths[0]))
    elif request.packing is Packing.HEADS_FIRST:
        rows = [split_heads(writer, "query", inputs["query"], heads, widths[0])]
        bias = None if bias is None else bias[:1]  # keys and values of a cache have theirs already
    else:
        rows = [
            split_heads(writer, name, inputs[name], heads, width)
            for name, width in zip(("query", "key", "value"), widths, strict=True)
        ]
    for place, part in enumerate(bias or ()):
        of_heads = writer.reshape(f"bias_heads_{place}", part, heads, widths[place])
        rows[place] = writer.op("Add", f"with_bias_{place}", rows[place], of_heads)
    if request.packing is Packing.HEADS_FIRST:
        return rows[0], inputs["key"], inputs["value"]
    return rows[0], rows[1], rows[2]


def _lengths(request: MultiHead) -> tuple[Dim, Dim, Dim]:
    shapes, inputs = request.fused.shapes, request.fused.inputs
    query, past = shapes.shape(inputs["query"]), Dim.of(0)
    key = query if request.packing is Packing.PACKED_QKV else shapes.shape(inputs["key"])
    assert query is not None and key is not None
    if "past_key" in inputs:
        before = shapes.shape(inputs["past_key"])
        assert before is not None
        past = before[2]
    new = key[2] if request.packing is Packing.HEADS_FIRST else key[1]
    return query[1], past + new, past
