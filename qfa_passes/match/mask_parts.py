"""Mask terms taken apart: sums of biases, conjunctions of conditions, and the condition behind a bias of 0 and -inf."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import onnx_graphsurgeon as gs

from qfa_passes.core.site import MaskKind, MaskTerm
from qfa_passes.core.view import View, ViewOp
from qfa_passes.graph.constants import constant_value, scalar_value
from qfa_passes.graph.ir import is_op, producer
from qfa_passes.match.context import MatchContext
from qfa_passes.match.element_types import is_float
from qfa_passes.match.index_values import index_values

_MOST_PARTS: Final = 16


def split_term(context: MatchContext, term: MaskTerm) -> list[MaskTerm]:
    """Reads a bias of 0 and -inf as its condition, a conjunction of conditions as its parts, a sum as its terms."""
    parts: list[MaskTerm] = []
    pending, seen = [term], list[MaskTerm]()
    while pending:
        part = pending.pop()
        if part in seen and part.kind is not MaskKind.BIAS:
            continue
        seen.append(part)
        inner = _inside(context, part)
        if inner:
            pending.extend(reversed(inner))
        else:
            parts.append(part)
        if len(seen) > _MOST_PARTS:
            return [term]
    return parts


def _inside(context: MatchContext, term: MaskTerm) -> list[MaskTerm]:
    """The terms that together say what ``term`` says; empty if it is not made of others."""
    if term.fill != -math.inf:
        return []  # finite fills add up where both parts hide a key
    node = producer(context.tensors[term.tensor])
    if term.kind is MaskKind.BIAS:
        condition = _condition(context, term)
        if condition is not None:
            return [condition]
    if term.views or term.fewer_keys:
        return []
    if term.kind is MaskKind.BIAS:
        if is_op(node, "Add"):
            return [replace(term, tensor=tensor.name) for tensor in node.inputs]
        short = _short(context, term)
        return [] if short is None else [short]
    other = MaskKind.DROP if term.kind is MaskKind.KEEP else MaskKind.KEEP
    if is_op(node, "Not"):
        return [MaskTerm(node.inputs[0].name, other)]
    if is_op(node, "And" if term.kind is MaskKind.KEEP else "Or"):
        return [MaskTerm(tensor.name, term.kind) for tensor in node.inputs]
    if is_op(node, "Expand"):
        return [MaskTerm(node.inputs[0].name, term.kind)]
    return []


def rejoined(
    context: MatchContext, terms: tuple[MaskTerm, ...], kept: tuple[MaskTerm, ...]
) -> tuple[MaskTerm, ...]:
    """Sums of which nothing was folded or read as a condition are one value again."""
    result = list(kept)
    for term in terms:
        if not is_op(producer(context.tensors[term.tensor]), "Add"):
            continue
        parts = split_term(context, term)
        plain = all(replace(part, tensor=term.tensor) == term for part in parts)
        if len(parts) > 1 and plain and all(part in result for part in parts):
            result[result.index(parts[0])] = term
            result = [part for part in result if part not in parts]
    return tuple(result)


def _condition(context: MatchContext, term: MaskTerm) -> MaskTerm | None:
    """Reads the bias Where(condition, 0, -inf) or Where(condition, -inf, 0), also behind casts and new axes."""
    node, views = producer(context.tensors[term.tensor]), list(term.views)
    while is_op(node, "Cast", "CastLike", "Unsqueeze", "Expand"):
        if not is_float(node.outputs[0]):  # -inf is lost
            return None
        if node.op == "Expand" and views and not _same_rank(context, node):
            return None
        if node.op == "Unsqueeze":
            axes = None if len(node.inputs) < 2 else constant_value(node.inputs[1])
            if axes is None:
                return None
            views.insert(0, View(ViewOp.UNSQUEEZE, tuple(int(axis) for axis in axes.reshape(-1))))
        node = producer(node.inputs[0])
    if not is_op(node, "Where") or term.factor <= 0:
        return None
    yes, no = scalar_value(node.inputs[1]), scalar_value(node.inputs[2])
    kind = MaskKind.KEEP if (yes, no) == (0, -math.inf) else None
    kind = MaskKind.DROP if (yes, no) == (-math.inf, 0) else kind
    if kind is None:
        return None
    return MaskTerm(node.inputs[0].name, kind, views=tuple(views), fewer_keys=term.fewer_keys)


def _same_rank(context: MatchContext, node: gs.Node) -> bool:
    rank = context.shapes.rank(node.inputs[0])
    return rank is not None and rank == context.shapes.rank(node.outputs[0])


def _short(context: MatchContext, term: MaskTerm) -> MaskTerm | None:
    """Reads a bias that was padded with -inf up to the number of keys."""
    node = producer(context.tensors[term.tensor])
    if not is_op(node, "Pad") or node.attrs.get("mode", "constant") != "constant":
        return None
    if len(node.inputs) < 3 or not node.inputs[2].name or term.factor <= 0:
        return None
    source, output = context.shapes.shape(node.inputs[0]), context.shapes.shape(node.outputs[0])
    fill = index_values(context).value(node.inputs[2])
    if fill != -math.inf or source is None or output is None or len(source) != len(output):
        return None
    if source[:-1] != output[:-1] or not (output[-1] - source[-1]).non_negative:
        return None
    pads = context.shapes.content(node.inputs[1])
    before = () if pads is None else pads.items[: len(pads.items) // 2]
    if not before or any(pad != 0 for pad in before):
        return None
    return replace(term, tensor=node.inputs[0].name, fewer_keys=True)
