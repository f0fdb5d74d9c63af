"""Attention of a few queries to a 4-bit cache, in numpy: its codes are multiplied as they are.

The scales of K differ by channel, so they go into the query, which is coded anew for each group of
keys. The scales of V differ by group of channels, so they go into the softmax weights, which are
coded anew for each. Shape letters: B batch, H query heads, Hkv key/value heads, S query length, T
tokens of the cache, D query/key channels, Dv value channels.
"""

import numpy as np
import numpy.typing as npt

from qfa_passes.core.opspec import KEY_BLOCK, KEY_GROUP
from qfa_passes.quant import hadamard, int4, int8
from qfa_passes.quant.attention import P_LEVELS, finite_or_zero, sink_logits
from qfa_passes.quant.cache import KeyValueCache
from qfa_passes.quant.int8 import Float
from qfa_passes.quant.masking import LOG2_E, LOWEST_BIAS, UNMASKED, Masking

MOST_ROWS = 8
"""Query rows of a key/value head, S * H / Hkv: where there are more, codes are decoded, and coded in int8."""


def attention_int4(
    query: npt.ArrayLike,
    cache: KeyValueCache,
    *,
    scale: float,
    masking: Masking = UNMASKED,
    sink: npt.ArrayLike | None = None,
) -> Float:
    """Returns the operator's output (B, H, S, Dv), but for the rounding of single float32 steps.

    Args:
        query: (B, H, S, D).
        cache: Of int4, with the tokens of the queries.
        scale: Factor of the scores.
        masking: Which keys are seen, and biases.
        sink: (H) or (1): logit of one more key, whose value is zero; -inf for none.
    """
    q = np.asarray(query, np.float32)
    factor = np.float32(scale) * LOG2_E
    if cache.coding.rotate:
        q, factor = hadamard.transform(q), factor / hadamard.block_length(q.shape[3])
    products = _products(q, cache)
    logit = sink_logits(sink, np.float32)
    logit = np.where(logit <= LOWEST_BIAS, np.float32(-np.inf), logit)
    seen, bias, averages = masking.resolve(products.shape, ~np.isneginf(logit))
    with np.errstate(invalid="ignore"):
        u = np.where(averages, 0, products * factor) + bias
    u = np.where(seen, u, np.float32(-np.inf))

    peak = finite_or_zero(u.max(axis=-1, keepdims=True, initial=-np.inf))
    weights = np.exp2(u - peak)
    total = weights.sum(axis=-1, keepdims=True) + np.exp2(logit * LOG2_E - peak)
    output = _weigh(weights, cache)
    return np.divide(output, np.where(total == 0, 1, total), dtype=np.float32)


def _products(q: Float, cache: KeyValueCache) -> Float:
    """Returns Q K^T, (B, H, S, T)."""
    t, group = cache.tensors, q.shape[1] // cache.tensors["key"].shape[1]
    tokens, channels = t["key"].shape[2], q.shape[3]
    codes = int4.unpack(t["key"], channels).astype(np.float32)
    parts = []
    for index in range(tokens // KEY_GROUP):
        step = t["key_scale"][:, :, index, None].astype(np.float32).repeat(group, axis=1)
        folded, q_step = int8.quantize(q * step)
        zero = t["key_zero_point"][:, :, index, None].astype(np.float32)
        keys = codes[:, :, index * KEY_GROUP : (index + 1) * KEY_GROUP] - zero
        # Sums of products of codes are exact in float32.
        exact = folded.astype(np.float32) @ keys.repeat(group, axis=1).swapaxes(-1, -2)
        parts.append(exact * q_step)
    waiting = cache.coding.prepare(t["key_open"][:, :, : tokens % KEY_GROUP])
    parts.append(q @ waiting.repeat(group, axis=1).swapaxes(-1, -2))
    return np.concatenate(parts, axis=-1)


def _weigh(weights: Float, cache: KeyValueCache) -> Float:
    """Returns the sums of weights (B, H, S, T) times values, (B, H, S, Dv)."""
    t, group = cache.tensors, weights.shape[1] // cache.tensors["value"].shape[1]
    codes = int4.unpack(t["value"], cache.v_channels).astype(np.float32).repeat(group, axis=1)
    steps, zeros = (
        t[name].astype(np.float32).repeat(group, axis=1)
        for name in ("value_scale", "value_zero_point")
    )
    output = np.zeros((*weights.shape[:3], cache.v_channels), np.float32)
    for start in range(0, codes.shape[2], KEY_BLOCK):
        block = slice(start, start + KEY_BLOCK)
        for index in range(steps.shape[3]):
            channels = slice(index * cache.coding.group, (index + 1) * cache.coding.group)
            step = steps[:, :, None, block, index]
            with np.errstate(invalid="ignore"):
                y = np.where(weights[..., block] == 0, 0, weights[..., block] * step)
            unit = y.max(axis=-1, keepdims=True) / P_LEVELS
            unit = np.maximum(unit, np.float32(int8.SMALLEST_SCALE))
            values = codes[:, :, block, channels] - zeros[:, :, block, index, None]
            output[..., channels] += unit * (np.rint(y / unit) @ values)
    return output
