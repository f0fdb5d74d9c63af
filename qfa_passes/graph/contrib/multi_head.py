"""Reading ``com.microsoft::MultiHeadAttention``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import onnx_graphsurgeon as gs

from qfa_passes.graph.contrib.key_masks import DEFAULT_FILL, read_key_mask
from qfa_passes.graph.contrib.reading import FusedNode, Unsupported
from qfa_passes.graph.contrib.ungrouped import Ungrouped
from qfa_passes.graph.shapes import ShapeMap

INPUTS: Final = (
    "query",
    "key",
    "value",
    "bias",
    "key_padding_mask",
    "attention_bias",
    "past_key",
    "past_value",
    "past_sequence_length",
    "cache_indirection",
)


class Packing(Enum):
    """How the node gets Q, K and V."""

    SEPARATE = auto()  # (B, S, H * D), (B, T, H * D), (B, T, H * Dv)
    PACKED_QKV = auto()  # (B, S, H, 3, D)
    PACKED_KV = auto()  # query as above, key (B, T, H, 2, D)
    HEADS_FIRST = (
        auto()
    )  # query as above, key (B, H, T, D) and value (B, H, T, Dv): keys of a cross attention


@dataclass(frozen=True, slots=True)
class MultiHead(Ungrouped):
    """What a MultiHeadAttention node asks for.

    Attributes:
        packing: How it gets Q, K and V.
    """

    packing: Packing


def read_multi_head(node: gs.Node, shapes: ShapeMap) -> MultiHead:
    """Reads a node; raises Unsupported."""
    fused = FusedNode.of(node, shapes, INPUTS)
    fused.refuse_inputs("past_sequence_length", "cache_indirection")
    fused.refuse_output(3, "qk")
    fused.require_inputs("query")
    heads = fused.integer("num_heads")
    query = fused.shape("query", 3, 5)
    packing = _packing(fused, len(query))
    if packing is Packing.PACKED_QKV:
        channels = v_channels = fused.fixed(query[4], "axis 4 of input query")
    else:
        channels = fused.per_head(fused.extent("query", 2, 3), heads, "query")
        v_channels = _v_channels(fused, packing, heads, channels)
    fused.check_past()
    fused.check_rank("bias", 1)
    fused.check_rank("attention_bias", 4)
    causal = bool(fused.integer("unidirectional"))
    if causal and packing is not Packing.PACKED_QKV:
        key = fused.shape("key", 3, 4, 5)
        new = key[2 if packing is Packing.HEADS_FIRST else 1]
        if new != query[1]:  # the kernel shows all keys to the last query, wherever it stands
            raise Unsupported(
                f"{fused.label} is causal for {query[1]} queries and {new} new keys,"
                " which may be different"
            )
    return MultiHead(
        fused,
        heads,
        channels,
        v_channels,
        fused.scale(channels),
        causal,
        fused.number("mask_filter_value", DEFAULT_FILL),
        read_key_mask(fused, "key_padding_mask", query[0], starts=False),
        fused.element("query"),
        packing,
    )


def _packing(fused: FusedNode, rank: int) -> Packing:
    if rank == 5:
        fused.refuse_inputs("key", "value")
        return Packing.PACKED_QKV
    fused.require_inputs("key")
    key = len(fused.shape("key", 3, 4, 5))
    if key == 5:
        fused.refuse_inputs("value")
        return Packing.PACKED_KV
    fused.require_inputs("value")
    fused.shape("value", key)
    return Packing.SEPARATE if key == 3 else Packing.HEADS_FIRST


def _v_channels(fused: FusedNode, packing: Packing, heads: int, channels: int) -> int:
    if packing is Packing.PACKED_KV:
        return channels
    if packing is Packing.HEADS_FIRST:
        return fused.extent("value", 3, 4)
    return fused.per_head(fused.extent("value", 2, 3), heads, "value")
