"""From the softmax down to the PV product: casts, NaN guards, dropout and Q/DQ pairs that change no weight."""

from __future__ import annotations

from typing import Final

import onnx_graphsurgeon as gs

from qfa_passes.graph.constants import scalar_value
from qfa_passes.graph.ir import is_op
from qfa_passes.match.context import MatchContext, MatchFailure
from qfa_passes.match.quantized import keeps_weights
from qfa_passes.match.row_guard import row_guard
from qfa_passes.match.scores import check_float

_DEPTH: Final = 24


def read_weights(
    context: MatchContext, softmax: gs.Node, biases: frozenset[str]
) -> tuple[gs.Node, tuple[str, ...], tuple[gs.Node, ...]]:
    """Walks from the softmax down to the PV product; ``biases`` are the values added to the scores.

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
        guard = row_guard(context, tensor, biases)
        if guard is not None:
            notes.append("guard of fully masked rows folded")
            passed.append(guard)
            tensor = guard.outputs[0]
            continue
        node = context.only_consumer(tensor, "softmax output")
        passed.append(node)
        if is_op(node, "MatMul"):
            if node.inputs[0].name != tensor.name:
                raise MatchFailure(
                    f"node '{node.name}' multiplies by the softmax output from the right"
                )
            return node, tuple(notes), tuple(passed)
        if is_op(node, "Cast", "Identity"):
            check_float(node)
            tensor = node.outputs[0]
        elif is_op(node, "Dropout"):
            _check_inference(node)
            tensor = node.outputs[0]
        elif is_op(node, "QuantizeLinear"):
            after = context.only_consumer(node.outputs[0], "quantized softmax output")
            if not is_op(after, "DequantizeLinear") or (
                after.inputs[0].name != node.outputs[0].name
            ):
                raise MatchFailure(f"node '{after.name}' uses the quantized softmax output")
            if not keeps_weights(node, after):
                raise MatchFailure(
                    f"the codes of '{node.name}' and '{after.name}' do not cover weights from 0 to 1"
                )
            notes.append("Q/DQ of P absorbed")
            passed.append(after)
            tensor = after.outputs[0]
        else:
            domain = f"{node.domain}::" if node.domain else ""
            raise MatchFailure(
                f"operator {domain}{node.op} (node '{node.name}') between softmax and PV"
            )
    raise MatchFailure(f"more than {_DEPTH} steps between the softmax and the PV product")


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


def _check_inference(dropout: gs.Node) -> None:
    training = (
        scalar_value(dropout.inputs[2])
        if len(dropout.inputs) > 2 and dropout.inputs[2].name
        else 0.0
    )
    if training is None or training != 0:
        raise MatchFailure(
            f"dropout '{dropout.name}' may be in training mode", "export the model in eval mode"
        )
    if len(dropout.outputs) > 1 and dropout.outputs[1].outputs:
        raise MatchFailure(f"the mask output of dropout '{dropout.name}' is used")
