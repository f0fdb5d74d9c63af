"""Attention written out: MatMul, scale and masks, Softmax, MatMul."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import onnx_graphsurgeon as gs

from qfa_passes.core.site import AttentionSite, Mask, MaskKind, MaskTerm
from qfa_passes.core.view import Views, permute
from qfa_passes.graph.dims import Dim, product
from qfa_passes.graph.ir import is_op
from qfa_passes.graph.shapes import Shape
from qfa_passes.match.atoms import Axes, Axis, extent_of, flat
from qfa_passes.match.context import MatchContext, MatchFailure
from qfa_passes.match.masks import ScoreExtents, resolve_masks
from qfa_passes.match.operands import (
    as_one_type,
    check_operands,
    element_type,
    score_factor,
)
from qfa_passes.match.placing import ScoreLayout, place
from qfa_passes.match.quantized import ROUNDED
from qfa_passes.match.reshaping import reshape_views
from qfa_passes.match.scores import Scores, read_scores
from qfa_passes.match.sinks import Sink, read_sink, sink_per_head
from qfa_passes.match.views import HeadsView, Lead, axes_below, operand_chain, read_operand
from qfa_passes.match.weights import Weights, read_weights

_LAST_BY_DEFAULT: Final = 13
"""From this opset on Softmax runs over the last axis unless told otherwise."""

_SWAP: Final = (0, 1, 3, 2)

_OUT_OF_REACH: Final = -1e9
"""What stands in place of a score swallows it, however small it is; what is added to one must be this low for that."""


def is_candidate(node: gs.Node) -> bool:
    """A softmax of the standard domain may be the heart of attention."""
    return is_op(node, "Softmax")


@dataclass(frozen=True, slots=True)
class _Block:
    """What was read around a softmax, before its axes are split into batch and heads."""

    softmax: gs.Node
    scores: Scores
    weights: Weights
    sink: Sink | None


def read_decomposed(context: MatchContext, softmax: gs.Node) -> AttentionSite:
    """Reads the block around a softmax; raises MatchFailure."""
    _check_axis(context, softmax)
    context.steps.append(f"softmax '{softmax.name}' over the last axis")
    tensor, sink = read_sink(context, softmax.inputs[0])
    if sink is not None:
        context.steps.append(f"a sink joins the scores at '{softmax.name}'")
    scores = read_scores(context, tensor)
    _check_shifts(softmax, scores, sink)
    context.steps.append(_told(scores))
    block = _Block(softmax, scores, read_weights(context, softmax, scores, sink), sink)
    context.steps.append(f"its weights are multiplied by V in '{block.weights.product.name}'")
    rows, keys = _score_axes(softmax, scores)
    failure: MatchFailure | None = None
    lead = scores.shape[:-2]
    if len(lead) == 2 and lead[1].value is None:  # the rest is tried all the same
        failure = MatchFailure(
            f"the number of heads of '{scores.product.name}' is not known: its axes are {list(scores.shape)}",
            "export the model with a fixed number of heads",
        )
    for layout in _layouts(context, block, rows, keys):
        try:
            return _read_as(context, block, layout)
        except MatchFailure as reason:
            failure = failure or reason
    assert failure is not None, "one head is always a way to see it"
    raise failure


def _told(scores: Scores) -> str:
    """What was understood of the scores, for a refusal that comes later."""
    masks = ", ".join(f"'{mask.term.tensor}'" for mask in scores.masks) or "none"
    scale, softcap = scores.scale_and_cap
    cap = f", softcap {softcap:g}" if softcap else ""
    return f"scores from '{scores.product.name}', scaled by {scale:g}{cap}, masks: {masks}"


def _check_axis(context: MatchContext, softmax: gs.Node) -> None:
    rank = context.shapes.rank(softmax.inputs[0])
    axis = int(softmax.attrs.get("axis", -1 if context.graph.opset >= _LAST_BY_DEFAULT else 1))
    if axis == -1 or (rank is not None and axis == rank - 1):
        return
    raise MatchFailure(f"softmax '{softmax.name}' runs over axis {axis}, expected the last axis")


def _check_shifts(softmax: gs.Node, scores: Scores, sink: Sink | None) -> None:
    """Refuses scores from which something was taken away that the softmax does see."""
    if any(shift != flat(scores.axes[-1:]) for shift in scores.shifts):
        raise MatchFailure(
            f"the maximum taken away above '{softmax.name}' is not that of the axis that it runs over"
        )
    if scores.shifts and sink is not None:
        raise MatchFailure(
            f"the maximum is taken away from the scores of '{softmax.name}', and not from their sink '{sink.tensor}'"
        )


def _score_axes(softmax: gs.Node, scores: Scores) -> tuple[int, int]:
    """Which axes of the QK^T product are queries and keys: the softmax runs over the keys."""
    rank = len(scores.shape)
    last = flat(scores.axes[-1:])
    if not last and scores.shape[-1] == 1:  # a single key
        return rank - 2, rank - 1
    keys = last[0].source if last else None
    complete = all(atom.source == keys for atom in last) and list(last) == sorted(
        last, key=lambda atom: atom.part
    )
    if complete and keys in (rank - 2, rank - 1) and extent_of(last) == scores.shape[keys]:
        return 2 * rank - 3 - keys, keys
    raise MatchFailure(
        f"softmax '{softmax.name}' runs over an axis that is not the keys of '{scores.product.name}'"
    )


def _layouts(context: MatchContext, block: _Block, rows: int, keys: int) -> Iterator[ScoreLayout]:
    """Ways to see the axes in front of queries and keys as batch and heads, the likeliest first."""
    shape = block.scores.shape
    lead = shape[:-2]
    whole = product(lead)
    seen: set[tuple[Dim, Dim]] = set()
    for factors in _factors(context, block):
        for count in range(len(factors) - 1, -1, -1):
            split = product(factors[:count]), product(factors[count:])
            if split[1].value is None or split[0] * split[1] != whole or split in seen:
                continue
            seen.add(split)
            yield ScoreLayout(rows, keys, *split, shape[rows], shape[keys])
    if (whole, Dim.of(1)) not in seen:
        yield ScoreLayout(rows, keys, whole, Dim.of(1), shape[rows], shape[keys])


def _factors(context: MatchContext, block: _Block) -> Iterator[Shape]:
    """Factors of the axes in front of queries and keys: as they are, above the views of Q and K, and at the masks."""
    scores = block.scores
    lead = scores.shape[:-2]
    if len(lead) > 1:
        yield lead
    for position in (0, 1):
        tensor = scores.product.inputs[position]
        steps = operand_chain(tensor, context.shapes)
        for height in range(1, len(steps) + 1):
            axes = axes_below(tensor, steps[:height], context.shapes)
            front = flat(axes[:-2]) if axes else ()
            if len(front) > len(lead):
                yield tuple(atom.extent for atom in front)
    for mask in scores.masks:
        yield tuple(atom.extent for atom in _front(mask.axes, len(scores.shape)))
    yield tuple(atom.extent for atom in _front(block.weights.axes, len(scores.shape)))


def _front(axes: Axes, rank: int) -> Axis:
    """Atoms of a view of the scores that are neither queries nor keys."""
    return tuple(atom for atom in flat(axes) if atom.source is not None and atom.source < rank - 2)


def _read_as(context: MatchContext, block: _Block, layout: ScoreLayout) -> AttentionSite:
    scores, weights = block.scores, block.weights
    query, key = _query_and_key(context, scores, layout)
    value, output_views = _value_and_output(context, block, layout)
    query, key, value = as_one_type(context, query, key, value)
    heads, kv_heads = check_operands(context, query, key, value)
    if query is not None and (query.batch != layout.batch or layout.heads != heads):
        raise MatchFailure(
            f"Q has {query.batch} x {heads} batches and heads, and the scores {layout.batch} x {layout.heads}"
        )
    assert query is not None and key is not None and value is not None
    terms = _terms(block, layout)
    mask = (
        resolve_masks(context, terms, ScoreExtents(layout.queries, layout.columns, layout.batch))
        if terms
        else Mask()
    )
    scale, softcap = scores.scale_and_cap
    output = weights.product.outputs[0]
    sink = block.sink
    notes = (*query.notes, *key.notes, *value.notes, *scores.notes, *weights.notes)
    nodes = (block.softmax, *scores.nodes, *weights.nodes, *(sink.nodes if sink else ()))
    return AttentionSite(
        name=block.softmax.name,
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
        nodes=tuple(dict.fromkeys(node.name for node in nodes)),
        exporter="decomposed",
        notes=tuple(dict.fromkeys(notes)),
        softcap=softcap,
        sink=sink_per_head(context, sink, layout, len(scores.axes)) if sink else None,
        output_views=output_views,
        rounded=not ROUNDED.isdisjoint(notes),
    )


def _query_and_key(
    context: MatchContext, scores: Scores, layout: ScoreLayout
) -> tuple[HeadsView | None, HeadsView | None]:
    lead = Lead(layout.batch, layout.heads, scores.shape[:-2])
    turned = layout.keys < layout.rows  # K Q^T
    left, right = (
        read_operand(scores.product, position, context.shapes, transposed=position == 1, lead=lead)
        for position in (0, 1)
    )
    return (right, left) if turned else (left, right)


def _value_and_output(
    context: MatchContext, block: _Block, layout: ScoreLayout
) -> tuple[HeadsView | None, Views]:
    """V, and the steps from (B, H, S, Dv) to the layout of the product's output."""
    weights = block.weights
    node, swapped = weights.product, weights.position == 1
    values = context.shapes.shape(node.inputs[int(not swapped)])
    if values is None or not 2 <= len(values) <= len(weights.axes):
        raise MatchFailure(
            f"the shape of '{node.inputs[int(not swapped)].name}', which the weights multiply, is not known or has more"
            " axes than they"
        )
    dealt = layout.deal(weights.axes)
    parts = None if dealt is None else [(place, part) for place, part, _ in dealt]
    last = len(weights.axes) - 1
    rows, keys = (last, last - 1) if swapped else (last - 1, last)
    if parts is None or any(
        (place == rows) != (part == 2) or (place == keys) != (part == 3) for place, part in parts
    ):
        side = "from the right " if swapped else ""
        raise MatchFailure(
            f"node '{node.name}' multiplies by the softmax output {side}over an axis that is not the keys"
        )
    front = tuple(extent_of(axis) for axis in weights.axes[:-2])
    lead = Lead(layout.batch, layout.heads, front)
    value = read_operand(
        node, int(not swapped), context.shapes, transposed=swapped, scaled=False, lead=lead
    )
    channels = values[-2] if swapped else values[-1]
    tail = (channels, layout.queries) if swapped else (layout.queries, channels)
    turn = permute(*_SWAP) if swapped else ()
    shape = (*front, *tail)
    merge = reshape_views((layout.batch, layout.heads, *tail), shape)
    if merge is None:
        raise MatchFailure(
            f"no view leads from (B, H, S, Dv) to the shape of '{node.outputs[0].name}', {list(shape)}"
        )
    return value, (*turn, *merge)


def _terms(block: _Block, layout: ScoreLayout) -> tuple[MaskTerm, ...]:
    terms = []
    for mask in block.scores.masks:
        views = place(mask, layout)
        if views is None:
            raise MatchFailure(
                f"the mask '{mask.term.tensor}' of shape {list(mask.shape)} cannot be brought to (B, H, S, T)"
                f" = {list(layout.shape)} by views with fixed numbers"
            )
        term = replace(mask.term, views=views)
        if term.kind is not MaskKind.BIAS:
            zeroed = term.tensor in block.weights.zeroed
            term = replace(term, fill=float("-inf") if zeroed else min(term.fill, _OUT_OF_REACH))
        terms.append(term)
    return tuple(terms)
