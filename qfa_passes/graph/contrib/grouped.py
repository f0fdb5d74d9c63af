"""Reading ``com.microsoft::GroupQueryAttention``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.graph.contrib.reading import FusedNode, Unsupported
from qfa_passes.graph.shapes import ShapeMap

INPUTS: Final = (
    "query",
    "key",
    "value",
    "past_key",
    "past_value",
    "seqlens_k",
    "total_sequence_length",
    "cos_cache",
    "sin_cache",
    "position_ids",
    "attention_bias",
    "head_sink",
    "k_scale",
    "v_scale",
    "q_norm_weight",
    "k_norm_weight",
)


@dataclass(frozen=True, slots=True)
class Grouped:
    """What a GroupQueryAttention node asks for.

    Attributes:
        fused: The node.
        packed: Q, K and V are one input, side by side.
        heads: H.
        kv_heads: Hkv.
        channels: D.
        rotary: Channels that are rotated; 0 for none.
        interleaved: Neighbouring channels are rotated together, not those of the two halves.
        scale: Factor on Q K^T.
        softcap: c * tanh(s / c); 0: none.
        causal: Whether later keys are hidden.
        window: A query sees so many keys, itself included; -1: all.
        evicts: The cache keeps the keys of the window only.
        smooth: One more key of logit 0 and no value takes part in the softmax.
        element: Element type.
    """

    fused: FusedNode
    packed: bool
    heads: int
    kv_heads: int
    channels: int
    rotary: int
    interleaved: bool
    scale: float
    softcap: float
    causal: bool
    window: int
    evicts: bool
    smooth: bool
    element: np.dtype[np.generic]


def read_grouped(node: gs.Node, shapes: ShapeMap) -> Grouped:
    """Reads a node; raises Unsupported."""
    fused = FusedNode.of(node, shapes, INPUTS)
    _refuse_quantized(fused)
    fused.refuse_inputs("q_norm_weight", "k_norm_weight")
    fused.refuse_output(3, "output_qk")
    fused.require_inputs("query", "seqlens_k", "total_sequence_length")
    heads, kv_heads = fused.integer("num_heads"), fused.integer("kv_num_heads")
    if kv_heads < 1 or heads % kv_heads:
        raise Unsupported(f"{heads} query heads of {fused.label} for {kv_heads} key/value heads")
    packed = "key" not in fused.inputs
    channels = _channels(fused, packed, heads, kv_heads)
    fused.check_past()
    fused.check_rank("attention_bias", 4)
    causal, window = bool(fused.integer("causal", 1)), fused.integer("local_window_size", -1)
    if window >= 0 and (not causal or window == 0):
        raise Unsupported(f"local_window_size {window} of {fused.label}")
    evicts = bool(fused.integer("sliding_window_cache"))
    if evicts and (window < 0 or "past_key" not in fused.inputs):
        raise Unsupported(f"{fused.label} has a window cache without a window or without a cache")
    if evicts and "attention_bias" in fused.inputs:
        raise Unsupported(f"attention_bias of {fused.label} with a window cache is not supported")
    softcap = fused.number("softcap")
    if not 0 <= softcap < float("inf"):
        raise Unsupported(f"softcap {softcap:g} of {fused.label}")
    return Grouped(
        fused,
        packed,
        heads,
        kv_heads,
        channels,
        _rotary(fused, channels),
        bool(fused.integer("rotary_interleaved")),
        fused.scale(channels),
        softcap,
        causal,
        window,
        evicts,
        fused.integer("smooth_softmax") > 0,
        fused.element("query"),
    )


def _refuse_quantized(fused: FusedNode) -> None:
    kinds = [fused.node.attrs.get(name, "NONE") for name in ("k_quant_type", "v_quant_type")]
    scaled = {"k_scale", "v_scale"} & fused.inputs.keys()
    if scaled or any(kind not in ("", "NONE") for kind in kinds):
        raise Unsupported(
            f"the cache of {fused.label} is quantized (k {kinds[0]}, v {kinds[1]})",
            "build the model with a float cache",
        )


def _channels(fused: FusedNode, packed: bool, heads: int, kv_heads: int) -> int:
    if packed:
        fused.refuse_inputs("value")
        return fused.per_head(fused.extent("query", 2, 3), heads + 2 * kv_heads, "query")
    fused.require_inputs("value")
    fused.shape("key", 3), fused.shape("value", 3)
    return fused.per_head(fused.extent("query", 2, 3), heads, "query")


def _rotary(fused: FusedNode, channels: int) -> int:
    if not fused.integer("do_rotary"):
        return 0
    fused.require_inputs("cos_cache", "sin_cache")
    rotated = 2 * fused.extent("cos_cache", 1, 2)
    if rotated > channels or rotated != 2 * fused.extent("sin_cache", 1, 2):
        raise Unsupported(f"{rotated} rotated channels of {channels} in {fused.label}")
    return rotated
