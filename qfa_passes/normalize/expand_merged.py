"""``com.microsoft::Attention`` in plain operators."""

from __future__ import annotations

from qfa_passes.graph.contrib.ungrouped import Ungrouped
from qfa_passes.graph.dims import Dim
from qfa_passes.normalize.attend_ungrouped import attend_ungrouped
from qfa_passes.normalize.attention_writer import split_heads
from qfa_passes.normalize.causal_keep import Shared
from qfa_passes.normalize.keys_and_values import join, present_of
from qfa_passes.normalize.writer import Writer


def expand_merged(writer: Writer, shared: Shared, request: Ungrouped) -> None:
    """Writes what the node computes and gives it to the node's outputs."""
    fused, inputs, heads = request.fused, request.fused.inputs, request.heads
    projected = writer.op("MatMul", "projection", inputs["input"], inputs["weights"])
    if "bias" in inputs:
        projected = writer.op("Add", "projection_bias", projected, inputs["bias"])
    widths = (request.channels, request.channels, request.v_channels)
    parts = writer.split("unpacked", projected, [heads * width for width in widths], 2)
    query, key, value = (
        split_heads(writer, name, part, heads, width)
        for name, part, width in zip(("query", "key", "value"), parts, widths, strict=True)
    )
    past = None
    if "past" in inputs:
        both = [
            writer.op("Gather", f"past_{name}", inputs["past"], writer.scalar(name, place), axis=0)
            for place, name in enumerate(("key", "value"))
        ]
        past = both[0], both[1]
    joined = join(writer, key, value, past, heads_first=False)
    attend_ungrouped(
        writer,
        shared,
        request,
        query,
        joined,
        past_key=None if past is None else past[0],
        mask_input="mask_index",
        lengths=_lengths(request),
    )
    output = fused.output(1)
    if output is not None:
        halves = [
            writer.unsqueeze(f"present_{place}", tensor, 0)
            for place, tensor in enumerate(present_of(writer, joined, key, value))
        ]
        writer.give(writer.op("Concat", "present", *halves, axis=0), output)


def _lengths(request: Ungrouped) -> tuple[Dim, Dim, Dim]:
    shapes, inputs = request.fused.shapes, request.fused.inputs
    rows = shapes.shape(inputs["input"])
    before = shapes.shape(inputs["past"]) if "past" in inputs else None
    assert rows is not None
    past = Dim.of(0) if before is None else before[3]
    return rows[1], past + rows[1], past
