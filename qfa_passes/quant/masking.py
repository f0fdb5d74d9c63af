"""Which keys a query sees, and what is added to the scores, in numpy.

Shape letters: B batch, H query heads, S query length, T key length (past keys included).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qfa_passes.quant.int8 import Float

Bool = npt.NDArray[np.bool_]

LOG2_E = np.float32(np.log2(np.e))
BIAS_LIMIT = np.float32(2.0**126)
"""Greater finite biases are clamped to this, so that they stay finite in base 2."""
LOWEST_BIAS = np.float32(-(2.0**20))
"""A bias at or below this swallows every score: it masks, unless the row has nothing else to see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """All parts apply together. Query i stands at position p = i, or p = i + T - S if ``queries_at_end``.

    With ``kv_length`` that T is kv_length[b]. A position may be negative, or beyond the last key.

    Attributes:
        causal: The query at p sees keys j <= p.
        mask: Bool, broadcastable to (B, H, S, T); true = may attend.
        bias: Float, broadcastable to (B, H, S, T); -inf = may not attend.
        queries_at_end: The queries are the last of the keys.
        left_window: The query at p sees keys j >= p - left_window; -1: all of them.
        right_window: The query at p sees keys j <= p + right_window; -1: all of them.
        kv_length: (B) or (1), whole numbers, clamped to 0..T: keys from there on are not seen.
    """

    causal: bool = False
    mask: npt.ArrayLike | None = None
    bias: npt.ArrayLike | None = None
    queries_at_end: bool = False
    left_window: int = -1
    right_window: int = -1
    kv_length: npt.ArrayLike | None = None

    def visible(self, shape: tuple[int, ...]) -> Bool:
        """Returns (B, H, S, T) flags: true where a query may attend to a key."""
        seen = np.ones(shape, np.bool_)
        rows, keys = np.arange(shape[2])[:, None], np.arange(shape[3])
        length = np.full((1, 1, 1, 1), shape[3])
        if self.kv_length is not None:
            given = np.asarray(self.kv_length, np.int64).reshape(-1, 1, 1, 1)
            length = np.clip(given, 0, shape[3])
            seen &= keys < length
        place = rows + length - shape[2] if self.queries_at_end else rows
        if self.causal:
            seen &= keys <= place
        if self.left_window >= 0:
            seen &= keys >= place - self.left_window
        if self.right_window >= 0:
            seen &= keys <= place + self.right_window
        if self.mask is not None:
            seen &= np.asarray(self.mask, np.bool_)
        if self.bias is not None:
            seen &= ~np.isneginf(np.asarray(self.bias, np.float32))
        return seen

    def resolve(self, shape: tuple[int, ...], sinks: Bool) -> tuple[Bool, Float, Bool]:
        """Settles what biases mean that swallow every score.

        Args:
            shape: (B, H, S, T).
            sinks: (H, 1, 1) flags of heads with a sink, where such biases mask in any case.

        Returns:
            Flags of keys that count, their bias in base 2 (both (B, H, S, T)), and rows that only average.
        """
        bias = np.broadcast_to(np.asarray(0 if self.bias is None else self.bias, np.float32), shape)
        seen, low = self.visible(shape), bias <= LOWEST_BIAS
        sees_any, sees_more = (np.any(x, axis=-1, keepdims=True) for x in (seen, seen & ~low))
        averages: Bool = sees_any & ~sees_more & ~sinks
        clamped = np.minimum(bias, BIAS_LIMIT, where=np.isfinite(bias), out=bias.copy())
        bias = np.where(averages, 0, clamped)
        return seen & (averages | ~low), np.where(low, 0, bias) * LOG2_E, averages


UNMASKED = Masking()
