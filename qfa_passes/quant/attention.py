"""What `ai.qfa::QuantFlashAttention` computes, in numpy, next to the attention it approximates.

`attention_int8` is the definition: kernels and function bodies are held against it. It favours
reading over speed and memory. Shape letters: B batch, H query heads, Hkv key/value heads, S query
length, T key length, D query/key channels, Dv value channels.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qfa_passes.core.opspec import KEY_BLOCK
from qfa_passes.quant import hadamard
from qfa_passes.quant.int8 import Codes, Float, quantize, quantize_static

Bool = npt.NDArray[np.bool_]

LOG2_E = np.float32(np.log2(np.e))
P_LEVELS = np.float32(255)
"""Softmax weights are uint8 codes 0..255; the largest weight of a row in a key block gets 255."""
ZERO_VALUE_STEP = np.float32(2.0**-60)
"""Step of a row of zeros in V; as part of the weights it must be small."""
BIAS_LIMIT = np.float32(2.0**126)
"""Greater finite biases are clamped to this, so that they stay finite in base 2."""
LOWEST_BIAS = np.float32(-(2.0**20))
"""A bias at or below this swallows every score: it masks, unless the row has nothing else to see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """Which keys a query sees, and what is added to the scores; all parts apply together.

    Attributes:
        causal: Query i sees keys j <= i.
        mask: Bool, broadcastable to (B, H, S, T); true = may attend.
        bias: Float, broadcastable to (B, H, S, T); -inf = may not attend.
    """

    causal: bool = False
    mask: npt.ArrayLike | None = None
    bias: npt.ArrayLike | None = None

    def visible(self, shape: tuple[int, ...]) -> Bool:
        """Returns (B, H, S, T) flags: true where a query may attend to a key."""
        seen = np.ones(shape, np.bool_)
        if self.causal:
            seen &= np.tri(shape[2], shape[3], dtype=np.bool_)
        if self.mask is not None:
            seen &= np.asarray(self.mask, np.bool_)
        if self.bias is not None:
            seen &= ~np.isneginf(np.asarray(self.bias, np.float32))
        return seen

    def resolve(self, shape: tuple[int, ...]) -> tuple[Bool, Float, Bool]:
        """Returns flags of keys that count, their bias in base 2 (both (B, H, S, T)), and rows that only average."""
        bias = np.broadcast_to(np.asarray(0 if self.bias is None else self.bias, np.float32), shape)
        seen, low = self.visible(shape), bias <= LOWEST_BIAS
        sees_any, sees_more = (np.any(x, axis=-1, keepdims=True) for x in (seen, seen & ~low))
        averages: Bool = np.logical_and(sees_any, ~sees_more)
        clamped = np.minimum(bias, BIAS_LIMIT, where=np.isfinite(bias), out=bias.copy())
        bias = np.where(averages, 0, clamped)
        return seen & (averages | ~low), np.where(low, 0, bias) * LOG2_E, averages


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


UNMASKED = Masking()
DYNAMIC = Quantization()


def attention_float64(
    query: npt.ArrayLike,
    key: npt.ArrayLike,
    value: npt.ArrayLike,
    *,
    scale: float,
    masking: Masking = UNMASKED,
) -> npt.NDArray[np.float64]:
    """Returns softmax(scale Q K^T + bias) V in float64, (B, H, S, Dv).

    A row that sees no key is zero. What K and V hold where a row cannot look has no effect on it;
    NaN or an infinity in a row of V that it sees makes it NaN.
    """
    q, k, v = (np.asarray(x, np.float64) for x in (query, key, value))
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat(group, axis=1), v.repeat(group, axis=1)
    with np.errstate(invalid="ignore"):
        scores = scale * (q @ k.swapaxes(-1, -2))
        if masking.bias is not None:
            scores = scores + np.asarray(masking.bias, np.float64)
    seen = masking.visible(scores.shape)
    scores = np.where(seen, scores, -np.inf)
    peak = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isneginf(peak), 0, peak))
    total = weights.sum(axis=-1, keepdims=True)
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
    quantization: Quantization = DYNAMIC,
) -> Float:
    """Returns the operator's output (B, H, S, Dv), but for the rounding of single float32 steps.

    Keys are taken in blocks of 64. Within a block the softmax weights, times the scales of V, are
    divided by their maximum in the row and rounded to uint8; blocks join in float32. The normalizer
    sums the weights before rounding.
    """
    q_codes, q_step, k_codes, k_step, v_codes, v_step, factor = _quantize_operands(
        query, key, value, quantization
    )
    rows = (*q_codes.shape[:3], 1)
    length = k_codes.shape[2]
    seen, bias, averages = masking.resolve((*rows[:3], length))
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
            u = products * row_factor * k_row + np.log2(v_row) + bias[..., block]
        u = np.where(seen[..., block], u, np.float32(-np.inf))
        block_peak = u.max(axis=-1, keepdims=True)
        weights = np.exp2(u - _finite_or_zero(block_peak))
        codes = np.rint(weights * P_LEVELS)
        block_total = np.where(seen[..., block], weights / v_row, 0).sum(axis=-1, keepdims=True)

        new_peak = np.maximum(peak, block_peak)
        base = _finite_or_zero(new_peak)
        old, new = np.exp2(peak - base), np.exp2(block_peak - base)
        total = total * old + block_total * new
        output = output * old + (codes @ v_codes[:, :, block]) * new
        peak = new_peak
    divisor: Float = np.where(total == 0, 1, total * P_LEVELS)
    return np.divide(output, divisor, dtype=np.float32)


def _finite_or_zero(peak: Float) -> Float:
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
