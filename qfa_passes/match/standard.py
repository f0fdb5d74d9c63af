"""The standard operator ai.onnx::Attention (opset 23 and later) as a source of attention."""

from __future__ import annotations

import math
from typing import Final

import onnx_graphsurgeon as gs
from onnx import TensorProto

from qfa_passes.core.site import AttentionSite, Cache
from qfa_passes.core.view import merge_heads
from qfa_passes.graph.ir import is_op
from qfa_passes.match.context import MatchContext, MatchFailure
from qfa_passes.match.masks import resolve_masks
from qfa_passes.match.operands import check_operands, element_type, score_factor
from qfa_passes.match.standard_inputs import number, optional_input, read_cache, read_inputs
from qfa_passes.match.standard_masks import mask_terms, positions, score_extents

_SOFTMAX_TYPES: Final = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.DOUBLE,
    TensorProto.BFLOAT16,
)
_SCORES: Final = 3
"""Which output is the score matrix."""


def is_candidate(node: gs.Node) -> bool:
    """The fused standard operator."""
    return is_op(node, "Attention")


def read_standard(context: MatchContext, node: gs.Node) -> AttentionSite:
    """Reads an Attention node; raises MatchFailure for what it does not say or the operator does not do.

    The exponent's precision (``softmax_precision``) is not followed: the operator always takes float32 there.
    """
    if len(node.inputs) < 3 or not all(tensor.name for tensor in node.inputs[:3]):
        raise MatchFailure(f"'{node.name}' lacks Q, K or V")
    cache = read_cache(context, node)
    _check_outputs(context, node, cache)
    _check_softmax(node)
    query, key, value = read_inputs(context, node, cached=cache is not None)
    heads, kv_heads = check_operands(context, query, key, value, grouped=True)
    assert query is not None and key is not None and value is not None
    context.steps.append(f"Q, K and V of '{node.name}': {heads} heads over {kv_heads}")
    extents = score_extents(context, node, cache, query.batch, heads)
    base = positions(node, extents, optional_input(node, "nonpad_kv_seqlen"), cache)
    mask = resolve_masks(context, mask_terms(context, node, extents), extents.matrix, base)
    scale = number(node, "scale", 1 / math.sqrt(query.channels))
    flat = context.shapes.rank(node.inputs[0]) == 3
    return AttentionSite(
        name=node.name,
        query=query.operand,
        key=key.operand,
        value=value.operand,
        output=node.outputs[0].name,
        mask=mask,
        scale=score_factor(scale, query, key),
        num_heads=heads,
        kv_num_heads=kv_heads,
        qk_channels=query.channels,
        v_channels=value.channels,
        dtype=element_type(node.outputs[0]),
        nodes=(node.name,),
        exporter="ai.onnx::Attention",
        notes=tuple(dict.fromkeys((*query.notes, *key.notes, *value.notes))),
        softcap=_softcap(node),
        cache=cache,
        output_views=merge_heads(heads, value.channels) if flat else (),
    )


def _softcap(node: gs.Node) -> float:
    cap = number(node, "softcap", 0)
    if not (math.isfinite(cap) and cap >= 0):
        raise MatchFailure(f"softcap {cap:g} of '{node.name}' is no cap")
    return cap


def _check_softmax(node: gs.Node) -> None:
    precision = number(node, "softmax_precision", TensorProto.FLOAT)
    if precision not in _SOFTMAX_TYPES:
        raise MatchFailure(f"softmax_precision {precision:g} of '{node.name}' is no float type")


def _check_outputs(context: MatchContext, node: gs.Node, cache: Cache | None) -> None:
    for position, output in enumerate(node.outputs[1:], start=1):
        if not output.name or not (output.outputs or output.name in context.outputs):
            continue
        if position == _SCORES:
            raise MatchFailure(
                f"the model asks for the score matrix ('{output.name}') of '{node.name}', which the fused operator"
                " never holds",
                "export the model without attention weights (output_attentions=False)",
            )
        if cache is None:
            raise MatchFailure(
                f"'{node.name}' has the output '{output.name}' but no past keys and values to put in front",
                "give past_key and past_value, or use the key itself",
            )
