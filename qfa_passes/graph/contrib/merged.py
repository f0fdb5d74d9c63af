"""Reading ``com.microsoft::Attention``, which holds the projections of Q, K and V as one matrix."""

from __future__ import annotations

from typing import Final

import onnx_graphsurgeon as gs

from qfa_passes.graph.contrib.key_masks import DEFAULT_FILL, read_key_mask
from qfa_passes.graph.contrib.reading import FusedNode, Unsupported
from qfa_passes.graph.contrib.ungrouped import Ungrouped
from qfa_passes.graph.shapes import ShapeMap

INPUTS: Final = (
    "input",
    "weights",
    "bias",
    "mask_index",
    "past",
    "attention_bias",
    "past_sequence_length",
)


def read_merged(node: gs.Node, shapes: ShapeMap) -> Ungrouped:
    """Reads a node; raises Unsupported."""
    fused = FusedNode.of(node, shapes, INPUTS)
    fused.refuse_inputs("past_sequence_length")
    fused.require_inputs("input", "weights")
    for name in ("do_rotary", "past_present_share_buffer"):
        if fused.integer(name):
            raise Unsupported(f"{name} of {fused.label} is not supported")
    heads = fused.integer("num_heads")
    batch = fused.shape("input", 3)[0]
    sizes = _sizes(fused)
    channels = fused.per_head(sizes[0], heads, "query")
    v_channels = fused.per_head(sizes[2], heads, "value")
    if (("past" in fused.inputs) or fused.output(1) is not None) and channels != v_channels:
        raise Unsupported(f"{fused.label} packs keys and values of different channels in one cache")
    fused.check_rank("past", 5)
    fused.check_rank("attention_bias", 4)
    return Ungrouped(
        fused,
        heads,
        channels,
        v_channels,
        fused.scale(channels),
        bool(fused.integer("unidirectional")),
        fused.number("mask_filter_value", DEFAULT_FILL),
        read_key_mask(fused, "mask_index", batch, starts=True),
        fused.element("weights"),
    )


def _sizes(fused: FusedNode) -> tuple[int, int, int]:
    total = fused.extent("weights", 1, 2)
    given = fused.node.attrs.get("qkv_hidden_sizes")
    if not given:
        third = fused.per_head(total, 3, "weights")
        return third, third, third
    query, key, value = (int(size) for size in given)
    if query != key or query + key + value != total:
        raise Unsupported(f"qkv_hidden_sizes {list(given)} of {fused.label} for {total} columns")
    return query, key, value
