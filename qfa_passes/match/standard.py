"""The standard operator ai.onnx::Attention (opset 23 and later) as a source of attention."""

from __future__ import annotations

import math

import onnx_graphsurgeon as gs

from qfa_passes.core.site import AttentionSite, Mask, MaskKind, MaskTerm
from qfa_passes.graph.ir import is_op
from qfa_passes.graph.shapes import Shape
from qfa_passes.match.context import MatchContext, MatchFailure
from qfa_passes.match.masks import ScoreExtents, resolve_masks
from qfa_passes.match.operands import check_operands, element_type, score_factor
from qfa_passes.match.scores import check_mask
from qfa_passes.match.views import read_operand

_OPTIONAL_INPUTS = ("past_key", "past_value", "nonpad_kv_seqlen")


def is_candidate(node: gs.Node) -> bool:
    """The fused standard operator."""
    return is_op(node, "Attention")


def read_standard(context: MatchContext, node: gs.Node) -> AttentionSite:
    """Reads an Attention node; raises MatchFailure for what this release does not take."""
    _check_plain(context, node)
    shapes = context.shapes
    query = read_operand(node, 0, shapes)
    key = read_operand(node, 1, shapes)
    value = read_operand(node, 2, shapes, scaled=False)
    heads, kv_heads = check_operands(context, query, key, value, grouped=True)
    assert query is not None and key is not None and value is not None
    scale = float(node.attrs.get("scale", 1 / math.sqrt(query.channels)))
    query_shape, key_shape = shapes.shape(node.inputs[0]), shapes.shape(node.inputs[1])
    assert query_shape is not None and key_shape is not None
    terms = _mask_terms(context, node, (*query_shape[:3], key_shape[2]))
    mask = resolve_masks(context, terms, ScoreExtents(query_shape[2], key_shape[2]))
    return AttentionSite(
        name=node.name,
        query=query.operand,
        key=key.operand,
        value=value.operand,
        output=node.outputs[0].name,
        mask=Mask(mask.causal or bool(node.attrs.get("is_causal", 0)), mask.terms),
        scale=score_factor(scale, query, key),
        num_heads=heads,
        kv_num_heads=kv_heads,
        qk_channels=query.channels,
        v_channels=value.channels,
        dtype=element_type(node.outputs[0]),
        nodes=(node.name,),
        exporter="ai.onnx::Attention",
        notes=tuple(dict.fromkeys((*query.notes, *key.notes, *value.notes))),
    )


def _mask_terms(context: MatchContext, node: gs.Node, scores: Shape) -> tuple[MaskTerm, ...]:
    if len(node.inputs) < 4 or not node.inputs[3].name:
        return ()
    mask = node.inputs[3]
    if mask.dtype is None:
        raise MatchFailure(f"the type of the mask '{mask.name}' is not known")
    check_mask(context, node, scores, mask)
    extents = context.shapes.shape(mask)
    if not extents or extents[-1] != scores[3]:
        raise MatchFailure(
            f"the mask '{mask.name}' may have fewer keys than '{node.name}', which hides the others"
        )
    if mask.dtype == bool:
        return (MaskTerm(mask.name, MaskKind.KEEP),)
    element_type(mask)
    return (MaskTerm(mask.name, MaskKind.BIAS),)


def _check_plain(context: MatchContext, node: gs.Node) -> None:
    later = "is not supported by this release"
    for name, tensor in zip(_OPTIONAL_INPUTS, node.inputs[4:], strict=False):
        if tensor.name:
            raise MatchFailure(f"input {name} of '{node.name}' {later}")
    for position, output in enumerate(node.outputs[1:], start=1):
        if output.name and (output.outputs or output.name in context.outputs):
            raise MatchFailure(f"output {position} of '{node.name}' ('{output.name}') is used")
    if float(node.attrs.get("softcap", 0)):
        raise MatchFailure(f"softcap of '{node.name}' {later}")
    for name in ("left_window_size", "right_window_size"):
        if int(node.attrs.get(name, -1)) >= 0:
            raise MatchFailure(f"{name} of '{node.name}' {later}")
    if context.shapes.rank(node.inputs[0]) != 4:
        raise MatchFailure(f"the (B, S, H*D) layout of '{node.name}' {later}")
