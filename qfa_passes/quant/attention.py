"""What `ai.qfa::QuantFlashAttention` computes, in numpy, next to the attention it approximates.

`attention_int8` is the definition: kernels and function bodies are held against it. It favours
reading over speed and memory. Shape letters: B batch, H query heads, Hkv key/value heads, S query
length, T key length, D query/key channels, Dv value channels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qfa_passes.core.opspec import KEY_BLOCK
from qfa_passes.quant import hadamard
from qfa_passes.quant.int8 import Codes, Float, quantize, quantize_static
from qfa_passes.quant.masking import BIAS_LIMIT, LOG2_E, LOWEST_BIAS, UNMASKED, Masking

__all__ = ["BIAS_LIMIT", "Masking", "Quantization", "attention_float64", "attention_int8"]

P_LEVELS = np.float32(255)
"""Softmax weights are uint8 codes 0..255; the largest weight of a row in a key block gets 255."""
ZERO_VALUE_STEP = np.float32(2.0**-60)
"""Step of a row of zeros in V; as part of the weights it must be small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """How Q, K and V become codes.

    Attributes:
        q_scale: None (one scale per token, found from the token), or the given step: () or (H).
        k_scale: Likewise, () or (Hkv).
        v_scale: Likewise, () or (Hkv).
        k_mean: (Hkv, D), subtracted from K first; softmax does not see a shift that all keys share.
        rotate: Q and K pass a Hadamard transform first.
    """

    q_scale: npt.ArrayLike | None = None
    k_scale: npt.ArrayLike | None = None
    v_scale: npt.ArrayLike | None = None
    k_mean: npt.ArrayLike | None = None
    rotate: bool = False


DYNAMIC = Quantization()


def attention_float64(
    query: npt.ArrayLike,
    key: npt.ArrayLike,
    value: npt.ArrayLike,
    *,
    scale: float,
    masking: Masking = UNMASKED,
    softcap: float = 0.0,
    sink: npt.ArrayLike | None = None,
) -> npt.NDArray[np.float64]:
    """Returns softmax(scale Q K^T + bias) V in float64, (B, H, S, Dv).

    A row that sees no key is zero. What K and V hold where a row cannot look has no effect on it;
    NaN or an infinity in a row of V that it sees makes it NaN.

    Args:
        query: (B, H, S, D).
        key: (B, Hkv, T, D), past keys included.
        value: (B, Hkv, T, Dv).
        scale: Factor of the scores.
        masking: Which keys are seen, and biases.
        softcap: c > 0: a scaled score s counts as c * tanh(s / c), before masks and biases.
        sink: (H) or (1): logit of one more key, whose value is zero; -inf for none.
    """
    q, k, v = (np.asarray(x, np.float64) for x in (query, key, value))
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat(group, axis=1), v.repeat(group, axis=1)
    with np.errstate(invalid="ignore"):
        scores = scale * (q @ k.swapaxes(-1, -2))
        if softcap > 0:
            scores = softcap * np.tanh(scores / softcap)
        if masking.bias is not None:
            scores = scores + np.asarray(masking.bias, np.float64)
    seen = masking.visible(scores.shape)
    scores = np.where(seen, scores, -np.inf)
    logit = sink_logits(sink, np.float64)
    peak = np.maximum(scores.max(axis=-1, keepdims=True, initial=-np.inf), logit)
    base = np.where(np.isneginf(peak), 0, peak)
    weights = np.exp(scores - base)
    total = weights.sum(axis=-1, keepdims=True) + np.exp(logit - base)
    weights = weights / np.where(total == 0, 1, total)
    spoiled = ~np.isfinite(v).all(axis=-1, keepdims=True)
    spoils = (seen.astype(np.float64) @ spoiled) > 0
    return np.where(spoils, np.nan, weights @ np.where(spoiled, 0, v))


def attention_int8(
    query: npt.ArrayLike,
    key: npt.ArrayLike,
    value: npt.ArrayLike,
    *,
    scale: float,
    masking: Masking = UNMASKED,
    softcap: float = 0.0,
    sink: npt.ArrayLike | None = None,
    quantization: Quantization = DYNAMIC,
) -> Float:
    """Returns the operator's output (B, H, S, Dv), but for the rounding of single float32 steps.

    Arguments are those of ``attention_float64``, and ``quantization``.

    Keys are taken in blocks of 64. Within a block the softmax weights, times the scales of V, are
    divided by their maximum in the row and rounded to uint8; blocks join in float32. The normalizer
    sums the weights before rounding, and the sink.
    """
    q_codes, q_step, k_codes, k_step, v_codes, v_step, factor = _quantize_operands(
        query, key, value, quantization
    )
    rows = (*q_codes.shape[:3], 1)
    length = k_codes.shape[2]
    logit = sink_logits(sink, np.float32)
    logit = np.where(logit <= LOWEST_BIAS, np.float32(-np.inf), logit)
    seen, bias, averages = masking.resolve((*rows[:3], length), ~np.isneginf(logit))
    row_factor = np.where(averages, 0, q_step * (np.float32(scale) * LOG2_E * factor))

    peak = np.full(rows, -np.inf, np.float32)
    total = np.zeros(rows, np.float32)
    output = np.zeros((*rows[:3], v_codes.shape[3]), np.float32)
    for start in range(0, length, KEY_BLOCK):
        block = slice(start, start + KEY_BLOCK)
        k_row, v_row = (step[:, :, None, block, 0] for step in (k_step, v_step))
        # Sums of products of codes are integers below 2**24 for D <= 1024: exact in float32, in any
        # order.
        products = q_codes @ k_codes[:, :, block].swapaxes(-1, -2)
        with np.errstate(over="ignore", invalid="ignore"):
            u = products * row_factor * k_row
            if softcap > 0:
                cap = np.float32(softcap) * LOG2_E
                u = cap * np.tanh(u / cap)
            u = u + np.log2(v_row) + bias[..., block]
        u = np.where(seen[..., block], u, np.float32(-np.inf))
        block_peak = u.max(axis=-1, keepdims=True)
        weights = np.exp2(u - finite_or_zero(block_peak))
        codes = np.rint(weights * P_LEVELS)
        block_total = np.where(seen[..., block], weights / v_row, 0).sum(axis=-1, keepdims=True)

        new_peak = np.maximum(peak, block_peak)
        base = finite_or_zero(new_peak)
        old, new = np.exp2(peak - base), np.exp2(block_peak - base)
        total = total * old + block_total * new
        output = output * old + (codes @ v_codes[:, :, block]) * new
        peak = new_peak
    # The sink joins last. Where no key was seen the output stays 0, whatever the total.
    with np.errstate(over="ignore"):
        total = total + np.exp2(logit * LOG2_E - finite_or_zero(peak))
    divisor: Float = np.where(total == 0, 1, total * P_LEVELS)
    return np.divide(output, divisor, dtype=np.float32)


def sink_logits(sink: npt.ArrayLike | None, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Returns the logits (H, 1, 1), or (1, 1, 1) where all heads share one; -inf for no sink."""
    return np.asarray(-np.inf if sink is None else sink, dtype).reshape(-1, 1, 1)


def finite_or_zero(peak: Float) -> Float:
    """Returns ``peak``, but 0 for -inf, so that rows that see nothing get weights 0, not NaN."""
    return np.where(np.isneginf(peak), np.float32(0), peak)


def _quantize_operands(
    query: npt.ArrayLike, key: npt.ArrayLike, value: npt.ArrayLike, how: Quantization
) -> tuple[Float, Float, Float, Float, Float, Float, np.float32]:
    """Returns codes and steps (B, H, rows, 1) of Q, K and V, and the factor to undo a rotation."""
    q, k, v = (np.asarray(x, np.float32) for x in (query, key, value))
    group = q.shape[1] // k.shape[1]
    factor = np.float32(1)
    if how.k_mean is not None:
        k = k - np.asarray(how.k_mean, np.float32)[:, None, :]
    if how.rotate:
        factor = np.float32(1 / hadamard.block_length(q.shape[-1]))
        q, k = hadamard.transform(q), hadamard.transform(k)
    q_codes, q_step = _quantize_rows(q, how.q_scale)
    k_codes, k_step = (x.repeat(group, axis=1) for x in _quantize_rows(k, how.k_scale))
    v_codes, v_step = _quantize_rows(v, how.v_scale)
    if how.v_scale is None:
        v_step = np.where(v.any(axis=-1, keepdims=True), v_step, ZERO_VALUE_STEP)
    v_codes, v_step = v_codes.repeat(group, axis=1), v_step.repeat(group, axis=1)
    return q_codes, q_step, k_codes, k_step, v_codes, v_step, factor


def _quantize_rows(x: Float, static: npt.ArrayLike | None) -> tuple[Float, Float]:
    """Returns codes and steps of rows of (B, heads, rows, channels); ``static``: () or (heads)."""
    codes: Codes
    if static is None:
        codes, step = quantize(x)
    else:
        codes, step = quantize_static(x, np.asarray(static, np.float32).reshape(-1, 1, 1))
    return codes.astype(np.float32), np.broadcast_to(step, (*x.shape[:3], 1))
