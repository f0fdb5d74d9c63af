"""Attention written out: MatMul, scale and masks, Softmax, MatMul."""

from __future__ import annotations

from typing import Final

import onnx_graphsurgeon as gs

from qfa_passes.core.site import AttentionSite, MaskKind
from qfa_passes.graph.ir import is_op
from qfa_passes.match.context import MatchContext, MatchFailure
from qfa_passes.match.masks import ScoreExtents, resolve_masks
from qfa_passes.match.operands import check_operands, element_type, score_factor
from qfa_passes.match.scores import read_scores
from qfa_passes.match.views import read_operand
from qfa_passes.match.weights import read_weights

_LAST_BY_DEFAULT: Final = 13
"""From this opset on Softmax runs over the last axis unless told otherwise."""


def is_candidate(node: gs.Node) -> bool:
    """A softmax of the standard domain may be the heart of attention."""
    return is_op(node, "Softmax")


def read_decomposed(context: MatchContext, softmax: gs.Node) -> AttentionSite:
    """Reads the block around a softmax; raises MatchFailure."""
    _check_axis(context, softmax)
    scores = read_scores(context, softmax.inputs[0])
    scale, softcap = scores.scale_and_cap
    biases = frozenset(term.tensor for term in scores.masks if term.kind is MaskKind.BIAS)
    product, notes, passed = read_weights(context, softmax, biases)
    shape = context.shapes.shape(scores.product.outputs[0])
    ranks = {context.shapes.rank(node.outputs[0]) for node in (scores.product, softmax, product)}
    if shape is None or ranks != {4}:
        rank = "unknown" if shape is None else len(shape)
        raise MatchFailure(
            f"the scores of '{scores.product.name}' have rank {rank}, expected (B, H, S, T)",
            "blocks with merged batch and head axes are not supported by this release",
        )
    query = read_operand(scores.product, 0, context.shapes)
    key = read_operand(scores.product, 1, context.shapes, transposed=True)
    value = read_operand(product, 1, context.shapes, scaled=False)
    heads, kv_heads = check_operands(context, query, key, value)
    assert query is not None and key is not None and value is not None
    mask = resolve_masks(context, scores.masks, ScoreExtents(shape[2], shape[3]))
    output = product.outputs[0]
    return AttentionSite(
        name=softmax.name,
        query=query.operand,
        key=key.operand,
        value=value.operand,
        output=output.name,
        mask=mask,
        scale=score_factor(scale, query, key),
        num_heads=heads,
        kv_num_heads=kv_heads,
        qk_channels=query.channels,
        v_channels=value.channels,
        dtype=element_type(output),
        nodes=tuple(node.name for node in (softmax, *scores.nodes, *passed)),
        exporter="decomposed",
        notes=tuple(dict.fromkeys((*query.notes, *key.notes, *value.notes, *notes))),
        softcap=softcap,
    )


def _check_axis(context: MatchContext, softmax: gs.Node) -> None:
    rank = context.shapes.rank(softmax.inputs[0])
    axis = int(softmax.attrs.get("axis", -1 if context.graph.opset >= _LAST_BY_DEFAULT else 1))
    if axis == -1 or (rank is not None and axis == rank - 1):
        return
    raise MatchFailure(f"softmax '{softmax.name}' runs over axis {axis}, expected the last axis")
