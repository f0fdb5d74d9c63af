"""The algebra of scores: from the softmax up to the QK^T product, and down to the PV product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import onnx_graphsurgeon as gs

from qfa_passes.core.site import MaskKind, MaskTerm
from qfa_passes.graph.constants import scalar_value
from qfa_passes.graph.ir import is_op, producer
from qfa_passes.match.context import MatchContext, MatchFailure
from qfa_passes.match.scalars import scaled_input

_DEPTH: Final = 24
MASKING: Final = -1e4
"""A constant at or below this, put in place of a score or added to it, means: do not attend."""


@dataclass(frozen=True, slots=True)
class Scores:
    """softmax input = factor * (Q K^T) with mask terms added (in any order)."""

    product: gs.Node
    factor: float
    masks: tuple[MaskTerm, ...]
    nodes: tuple[gs.Node, ...]


def read_scores(context: MatchContext, tensor: gs.Tensor) -> Scores:
    """Walks from the softmax input up to the QK^T product; raises MatchFailure with the first thing not understood."""
    return _read(context, tensor, 0)


def _read(context: MatchContext, tensor: gs.Tensor, depth: int) -> Scores:
    node = producer(tensor)
    if node is None:
        raise MatchFailure(f"the scores come from '{tensor.name}', which no node computes")
    if depth > _DEPTH:
        raise MatchFailure(f"more than {_DEPTH} steps between the softmax and the QK^T product")
    if node.domain:
        raise MatchFailure(f"operator {node.domain}::{node.op} (node '{node.name}') stands between QK^T and softmax")
    if tensor.outputs and depth:
        context.only_consumer(tensor, "score matrix")
    if node.op == "MatMul":
        return Scores(node, 1.0, (), (node,))
    if node.op in ("Cast", "Identity"):
        inner = _read(context, node.inputs[0], depth + 1)
        return Scores(inner.product, inner.factor, inner.masks, (node, *inner.nodes))
    scaled = scaled_input(node, context.shapes)
    if scaled is not None:
        source, factor = scaled
        inner = _read(context, source, depth + 1)
        if inner.masks:
            raise MatchFailure(f"node '{node.name}' scales the scores after a mask was added")
        return Scores(inner.product, inner.factor * factor, (), (node, *inner.nodes))
    if node.op == "Add":
        return _read_add(context, node, depth)
    if node.op == "Where":
        return _read_where(context, node, depth)
    hints = {
        "Tanh": "softcapped scores are not supported by this release",
        "Concat": "attention sinks are not supported by this release",
        "Reshape": "scores with merged batch and head axes are not supported by this release",
    }
    raise MatchFailure(f"operator {node.op} (node '{node.name}') between QK^T and softmax", hints.get(node.op, ""))


def _read_add(context: MatchContext, node: gs.Node, depth: int) -> Scores:
    found: list[tuple[Scores, gs.Tensor]] = []
    failures: list[MatchFailure] = []
    for score, bias in (node.inputs, node.inputs[::-1]):
        try:
            found.append((_read(context, score, depth + 1), bias))
        except MatchFailure as failure:
            failures.append(failure)
    if not found:
        raise max(failures, key=lambda failure: len(failure.hint))
    if len(found) == 2:
        raise MatchFailure(f"both operands of '{node.name}' are products; which one is QK^T is not clear")
    inner, bias = found[0]
    _check_broadcast(context, node, inner, bias)
    return Scores(inner.product, inner.factor, (*inner.masks, MaskTerm(bias.name, MaskKind.BIAS)), (node, *inner.nodes))


def _read_where(context: MatchContext, node: gs.Node, depth: int) -> Scores:
    condition, yes, no = node.inputs
    for score, other, inverted in ((yes, no, False), (no, yes, True)):
        fill = scalar_value(other)
        if fill is None:
            continue
        if fill > MASKING:
            raise MatchFailure(f"node '{node.name}' puts {fill:g} in place of scores, which does not mask them")
        inner = _read(context, score, depth + 1)
        _check_broadcast(context, node, inner, condition)
        term = MaskTerm(condition.name, MaskKind.DROP if inverted else MaskKind.KEEP, fill)
        return Scores(inner.product, inner.factor, (*inner.masks, term), (node, *inner.nodes))
    raise MatchFailure(f"node '{node.name}' selects between two computed values, none of them a masking constant")


def _check_broadcast(context: MatchContext, node: gs.Node, inner: Scores, mask: gs.Tensor) -> None:
    before, after = context.shapes.rank(inner.product.outputs[0]), context.shapes.rank(node.outputs[0])
    if before is None or after is None or before != after:
        raise MatchFailure(f"the mask '{mask.name}' changes the rank of the scores at node '{node.name}'")


def read_weights(context: MatchContext, softmax: gs.Node) -> tuple[gs.Node, tuple[str, ...], tuple[gs.Node, ...]]:
    """Walks from the softmax down to the PV product.

    Returns:
        The product, notes, and the nodes passed.
    """
    tensor, notes, passed = softmax.outputs[0], [], []
    for _ in range(_DEPTH):
        guard = _nan_guard(context, tensor)
        if guard is not None:
            notes.append("NaN guard folded")
            passed.append(guard)
            tensor = guard.outputs[0]
            continue
        node = context.only_consumer(tensor, "softmax output")
        passed.append(node)
        if is_op(node, "MatMul"):
            if node.inputs[0].name != tensor.name:
                raise MatchFailure(f"node '{node.name}' multiplies by the softmax output from the right")
            return node, tuple(notes), tuple(passed)
        if is_op(node, "Cast", "Identity"):
            tensor = node.outputs[0]
        elif is_op(node, "Dropout"):
            _check_inference(node)
            tensor = node.outputs[0]
        elif is_op(node, "QuantizeLinear"):
            after = context.only_consumer(node.outputs[0], "quantized softmax output")
            if not is_op(after, "DequantizeLinear") or (after.inputs[0].name != node.outputs[0].name):
                raise MatchFailure(f"node '{after.name}' uses the quantized softmax output")
            notes.append("Q/DQ of P absorbed")
            passed.append(after)
            tensor = after.outputs[0]
        else:
            domain = f"{node.domain}::" if node.domain else ""
            raise MatchFailure(f"operator {domain}{node.op} (node '{node.name}') between softmax and PV")
    raise MatchFailure(f"more than {_DEPTH} steps between the softmax and the PV product")


def _nan_guard(context: MatchContext, tensor: gs.Tensor) -> gs.Node | None:
    """Recognises Where(IsNaN(p), 0, p), which exporters write so that fully masked rows give zeros."""
    consumers = list({id(node): node for node in tensor.outputs}.values())
    if len(consumers) != 2 or tensor.name in context.outputs:
        return None
    isnan = next((node for node in consumers if is_op(node, "IsNaN")), None)
    where = next((node for node in consumers if is_op(node, "Where")), None)
    if isnan is None or where is None or producer(where.inputs[0]) is not isnan:
        return None
    replacement = scalar_value(where.inputs[1])
    if replacement != 0 or where.inputs[2].name != tensor.name or len(isnan.outputs[0].outputs) != 1:
        return None
    return where


def _check_inference(dropout: gs.Node) -> None:
    training = scalar_value(dropout.inputs[2]) if len(dropout.inputs) > 2 and dropout.inputs[2].name else 0.0
    if training is None or training != 0:
        raise MatchFailure(f"dropout '{dropout.name}' may be in training mode", "export the model in eval mode")
    if len(dropout.outputs) > 1 and dropout.outputs[1].outputs:
        raise MatchFailure(f"the mask output of dropout '{dropout.name}' is used")



