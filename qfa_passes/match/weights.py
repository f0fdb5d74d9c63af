"""From the softmax down to the PV product: views, casts, NaN guards, dropout and Q/DQ pairs that change no weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import onnx_graphsurgeon as gs

from qfa_passes.graph.constants import scalar_value
from qfa_passes.graph.ir import is_op
from qfa_passes.match.atoms import RESHAPING, Axes, through
from qfa_passes.match.context import MatchContext, MatchFailure
from qfa_passes.match.quantized import ROUNDED_WEIGHTS, keeps_weights
from qfa_passes.match.row_guard import row_guard
from qfa_passes.match.scores import Scores, check_float
from qfa_passes.match.sinks import Sink, drops_sink
from qfa_passes.match.zeroed import zeroing

_DEPTH: Final = 24


@dataclass(frozen=True, slots=True)
class Weights:
    """Where the weights go.

    Attributes:
        product: The node of P V.
        position: Which of its inputs the weights are.
        axes: What the axes of that input are, in atoms of the QK^T product's axes.
        nodes: From the softmax down to the product.
        notes: What was undone on the way.
        zeroed: Names of the conditions whose masked keys get the weight 0 once more, in rows without a key too.
    """

    product: gs.Node
    position: int
    axes: Axes
    nodes: tuple[gs.Node, ...]
    notes: tuple[str, ...]
    zeroed: frozenset[str]


def read_weights(
    context: MatchContext, softmax: gs.Node, scores: Scores, sink: Sink | None
) -> Weights:
    """Walks from the softmax down to the PV product; raises MatchFailure with the first thing not understood."""
    tensor, axes = softmax.outputs[0], scores.axes
    notes: list[str] = []
    passed: list[gs.Node] = []
    zeroed: set[str] = set()
    for _ in range(_DEPTH):
        guard = _nan_guard(context, tensor)
        if guard is not None:
            notes.append("NaN guard folded")
            passed.append(guard)
            tensor = guard.outputs[0]
            continue
        guard = row_guard(context, tensor, axes, scores)
        if guard is not None:
            notes.append("guard of fully masked rows folded")
            passed.append(guard)
            tensor = guard.outputs[0]
            continue
        node = context.only_consumer(tensor, "softmax output")
        passed.append(node)
        if is_op(node, "MatMul"):
            if sink is not None:
                raise MatchFailure(
                    f"the weight of the sink '{sink.tensor}' reaches the product '{node.name}'"
                )
            position = next(i for i, value in enumerate(node.inputs) if value is tensor)
            return Weights(node, position, axes, tuple(passed), tuple(notes), frozenset(zeroed))
        if is_op(node, "Cast", "Identity"):
            check_float(node)
        elif is_op(node, "Dropout"):
            _check_inference(context, node)
        elif is_op(node, "QuantizeLinear"):
            node = _rounding(context, node)
            passed.append(node)
            notes.append(ROUNDED_WEIGHTS)
        elif is_op(node, *RESHAPING):
            if sink is not None:
                raise MatchFailure(f"node '{node.name}' comes before the sink is taken away")
            axes = _reshaped(context, node, axes)
        elif is_op(node, "Slice") and sink is not None:
            drops_sink(context, node, sink)
            sink = None
        else:
            condition = zeroing(context, node, tensor, axes, scores)
            if condition is None:
                domain = f"{node.domain}::" if node.domain else ""
                raise MatchFailure(
                    f"operator {domain}{node.op} (node '{node.name}') between softmax and PV"
                )
            zeroed.add(condition)
        tensor = node.outputs[0]
    raise MatchFailure(f"more than {_DEPTH} steps between the softmax and the PV product")


def _rounding(context: MatchContext, quantize: gs.Node) -> gs.Node:
    after = context.only_consumer(quantize.outputs[0], "quantized softmax output")
    if not is_op(after, "DequantizeLinear") or after.inputs[0] is not quantize.outputs[0]:
        raise MatchFailure(f"node '{after.name}' uses the quantized softmax output")
    if not keeps_weights(quantize, after):
        raise MatchFailure(
            f"the codes of '{quantize.name}' and '{after.name}' do not cover weights from 0 to 1"
        )
    return after


def _reshaped(context: MatchContext, node: gs.Node, axes: Axes) -> Axes:
    target = context.shapes.shape(node.outputs[0])
    after = None if target is None else through(node, axes, target, context.shapes)
    if after is None:
        raise MatchFailure(
            f"what node '{node.name}' makes of the axes of the weights is not understood"
        )
    return after


def _nan_guard(context: MatchContext, tensor: gs.Tensor) -> gs.Node | None:
    """Recognises Where(IsNaN(p), 0, p), which exporters write so that fully masked rows give zeros."""
    consumers = list({id(node): node for node in tensor.outputs}.values())
    if len(consumers) != 2 or tensor.name in context.outputs:
        return None
    isnan, where = consumers if is_op(consumers[0], "IsNaN") else consumers[::-1]
    if is_op(isnan, "IsNaN") and is_op(where, "Where") and isnan.outputs[0] is where.inputs[0]:
        replaces = scalar_value(where.inputs[1]) == 0 and where.inputs[2].name == tensor.name
        if replaces and len(isnan.outputs[0].outputs) == 1:
            return where
    return None


def _check_inference(context: MatchContext, dropout: gs.Node) -> None:
    training = (
        scalar_value(dropout.inputs[2])
        if len(dropout.inputs) > 2 and dropout.inputs[2].name
        else 0.0
    )
    if training is None or training != 0:
        raise MatchFailure(
            f"dropout '{dropout.name}' may be in training mode", "export the model in eval mode"
        )
    mask = dropout.outputs[1] if len(dropout.outputs) > 1 else None
    if mask is not None and (mask.outputs or mask.name in context.outputs):
        raise MatchFailure(f"the mask output of dropout '{dropout.name}' is used")
