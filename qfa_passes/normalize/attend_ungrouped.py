"""Attention in which every query head has keys and values of its own, from joined keys to the output."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from qfa_passes.graph.contrib.ungrouped import Ungrouped
from qfa_passes.graph.dims import Dim
from qfa_passes.normalize.attention_writer import Scores, attend, key_bias, merge_heads
from qfa_passes.normalize.causal_keep import Shared, causal_keep
from qfa_passes.normalize.keys_and_values import Joined
from qfa_passes.normalize.writer import Writer


def attend_ungrouped(
    writer: Writer,
    shared: Shared,
    request: Ungrouped,
    query: gs.Tensor,
    joined: Joined,
    *,
    past_key: gs.Tensor | None,
    mask_input: str,
    lengths: tuple[Dim, Dim, Dim],
) -> None:
    """Writes scores, masks, softmax and values, and gives the result to the node's first output.

    Args:
        writer: Takes the nodes.
        shared: What other blocks have.
        request: What the node asks for.
        query: (B, S, H, D).
        joined: Keys and values.
        past_key: (B, H, P, D), or None.
        mask_input: Which input the key mask is.
        lengths: S, T and P.
    """
    inputs = request.fused.inputs
    biases = [inputs["attention_bias"]] if "attention_bias" in inputs else []
    if request.mask is not None:
        mask, total = inputs[mask_input], joined.total
        kind, fill = request.mask, request.fill
        biases.append(key_bias(writer, shared, mask, kind, fill, lengths, (query, 0), total))
    keep = None
    if request.causal:
        behind = None if past_key is None else (past_key, 2)
        keep = causal_keep(writer, shared, lengths, (query, 1), joined.total, behind)
    queries = writer.transpose("query", query, 0, 2, 1, 3)
    scores = Scores(request.scale, biases=biases, keep=keep)
    result = attend(writer, queries, joined.key_t, joined.value, scores)
    merged = merge_heads(writer, result, request.heads * request.v_channels)
    writer.give(merged, request.fused.outputs[0])
