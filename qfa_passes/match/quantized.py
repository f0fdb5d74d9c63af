"""Reading symmetric QuantizeLinear -> DequantizeLinear pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.graph.constants import constant_value
from qfa_passes.graph.ir import is_op, producer

ROUNDED_SCORES: Final = "Q/DQ of the scores absorbed"
ROUNDED_WEIGHTS: Final = "Q/DQ of P absorbed"
ROUNDED: Final = frozenset((ROUNDED_SCORES, ROUNDED_WEIGHTS))
"""Notes of a block whose own roundings the operator leaves out."""

_COARSEST_WEIGHT_STEP: Final = 1 / 100
"""Allows 1/127 and finer."""

_LOWEST_TOP: Final = 0.75
"""Calibration finds a top a little below 1 where no weight came near 1; much less would change what the weights say."""


@dataclass(frozen=True, slots=True)
class QdqPair:
    """A Q/DQ pair over ``source`` with a symmetric 8-bit code (int8 around 0 or uint8 around 128).

    Attributes:
        source: The float value that is quantized.
        scale: One step, or one per index of ``axis``.
    """

    source: gs.Tensor
    scale: tuple[float, ...]


def read_qdq(last: gs.Node) -> QdqPair | None:
    """Returns the pair that ends in ``last``, or None if it is not one that the operator can absorb.

    A float16 value is quantized between two casts: Cast, QuantizeLinear, DequantizeLinear, Cast.
    """
    if not is_op(last, "Cast"):
        return _read_pair(last)
    inner = producer(last.inputs[0])
    pair = None if inner is None else _read_pair(inner)
    first = None if pair is None else producer(pair.source)
    if pair is None or not is_op(first, "Cast") or first.inputs[0].dtype != last.outputs[0].dtype:
        return None
    if pair.source.dtype != np.float32 or last.inputs[0].dtype != np.float32:
        return None
    return QdqPair(first.inputs[0], pair.scale)


def _read_pair(dequantize: gs.Node) -> QdqPair | None:
    if not is_op(dequantize, "DequantizeLinear"):
        return None
    quantize = producer(dequantize.inputs[0])
    if quantize is None or not is_op(quantize, "QuantizeLinear"):
        return None
    scales = [constant_value(node.inputs[1]) for node in (quantize, dequantize)]
    if any(scale is None for scale in scales):
        return None
    first, second = (np.asarray(scale, dtype=np.float32) for scale in scales)
    valid = first.shape == second.shape and np.array_equal(first, second)
    if not valid or not np.all(np.isfinite(first) & (first > 0)) or first.size != 1:
        return None
    if not (_symmetric(quantize) and _symmetric(dequantize)):
        return None
    return QdqPair(quantize.inputs[0], tuple(float(step) for step in first.reshape(-1)))


def keeps_weights(quantize: gs.Node, dequantize: gs.Node) -> bool:
    """True if a Q/DQ pair keeps softmax weights, up to one small step and a top that calibration put near 1."""
    steps = [constant_value(node.inputs[1]) for node in (quantize, dequantize)]
    zeros = [
        constant_value(node.inputs[2]) if len(node.inputs) > 2 else None
        for node in (quantize, dequantize)
    ]
    if any(value is None or value.size != 1 for value in (*steps, *zeros)):
        return False
    (step, same_step), (zero, same_zero) = (
        [np.asarray(value).reshape(()) for value in pair] for pair in (steps, zeros)
    )
    if (
        step != same_step
        or zero != same_zero
        or zero.dtype != same_zero.dtype
        or zero.dtype.kind not in "iu"
    ):
        return False
    codes = np.iinfo(zero.dtype)
    lowest, highest = ((float(code) - float(zero)) * float(step) for code in (codes.min, codes.max))
    return 0 < float(step) <= _COARSEST_WEIGHT_STEP and lowest <= 0 and highest >= _LOWEST_TOP


def rounds_scores(quantize: gs.Node, dequantize: gs.Node) -> bool:
    """True if a Q/DQ pair does no more than round to steps of one size, the same ones both ways."""
    for position in (1, 2):
        pair = [
            constant_value(node.inputs[position])
            if len(node.inputs) > position and node.inputs[position].name
            else None
            for node in (quantize, dequantize)
        ]
        first, second = pair
        if first is None or second is None:
            if position == 1 or first is not second:
                return False
        elif first.size != 1 or first.dtype != second.dtype or first != second:
            return False
    return True


def _symmetric(node: gs.Node) -> bool:
    if len(node.inputs) < 3 or not node.inputs[2].name:
        return False  # the code type would be a matter of the runtime
    zero = constant_value(node.inputs[2])
    if zero is None:
        return False
    if zero.dtype not in (np.int8, np.uint8):
        return False
    return bool(np.all(zero == (0 if zero.dtype == np.int8 else 128)))
