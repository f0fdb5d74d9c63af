"""Symmetric int8: codes -127..127, value = code * scale, scale = absmax / 127 over a group.

Rounding is half to even. A group of zeros has scale 1. A group that holds NaN or an infinity has
scale NaN and codes 0, so that it turns into NaN as a whole and spoils no other group.
"""

from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8]

CODE_MAX: Final = 127
SMALLEST_SCALE: Final = 2.0**-100
"""Floor of a scale: its inverse stays finite and the product of two scales stays normal in
float32."""


class Granularity(StrEnum):
    """Which elements of an array share one scale."""

    TOKEN = "token"  # each row of channels has its own
    TENSOR = "tensor"  # one for everything
    HEAD = "head"  # one per index of axis -3: (..., heads, rows, channels)
    CHANNEL = "channel"  # one per head and channel

    def axes(self, rank: int) -> tuple[int, ...]:
        """Returns the axes that a group spans, for an array of ``rank`` axes."""
        kept = {
            Granularity.TOKEN: range(rank - 1),
            Granularity.TENSOR: (),
            Granularity.HEAD: (rank - 3,),
            Granularity.CHANNEL: (rank - 3, rank - 1),
        }[self]
        return tuple(axis for axis in range(rank) if axis not in kept)


def group_absmax(x: npt.ArrayLike, granularity: Granularity = Granularity.TOKEN) -> Float:
    """Returns the range that each group's codes span, its axes kept with extent 1.

    It is the largest magnitude, 127 for a group of zeros (so that the scale is 1), at least 127 *
    2**-100, and NaN for a group that holds NaN or an infinity.
    """
    values = np.asarray(x, np.float32)
    axes = granularity.axes(values.ndim)
    absmax = np.max(np.abs(values), axis=axes, keepdims=True, initial=0)
    floored = np.maximum(absmax, np.float32(CODE_MAX * SMALLEST_SCALE))
    spanned = np.where(absmax == 0, np.float32(CODE_MAX), floored)
    return np.where(np.isfinite(spanned), spanned, np.float32(np.nan))


def find_scale(x: npt.ArrayLike, granularity: Granularity = Granularity.TOKEN) -> Float:
    """Returns the value of one code step for each group, its axes kept with extent 1."""
    return group_absmax(x, granularity) / np.float32(CODE_MAX)


def _to_codes(steps: Float) -> Codes:
    """Rounds, clamps and narrows; NaN becomes 0."""
    rounded = np.clip(np.rint(steps), -CODE_MAX, CODE_MAX)
    return np.where(np.isnan(rounded), np.float32(0), rounded).astype(np.int8)


def quantize(x: npt.ArrayLike, granularity: Granularity = Granularity.TOKEN) -> tuple[Codes, Float]:
    """Returns the codes and the scales of ``x``; ``dequantize(*quantize(x))`` is near ``x``.

    Codes are ``rint(x * (127 / absmax))``: one division for each group, as kernels do it.
    """
    values = np.asarray(x, np.float32)
    absmax = group_absmax(values, granularity)
    with np.errstate(invalid="ignore"):
        codes = _to_codes(values * (np.float32(CODE_MAX) / absmax))
    return codes, absmax / np.float32(CODE_MAX)


def quantize_static(x: npt.ArrayLike, scale: npt.ArrayLike) -> tuple[Codes, Float]:
    """Returns the codes ``rint(x / scale)``, clamped, and the scale of each row of channels.

    Args:
        x: Array (..., channels).
        scale: Positive values, broadcastable to ``x`` with channels of extent 1.

    Returns:
        Codes like ``x`` and scales (..., 1): the one given, or NaN for a row that holds NaN or an
        infinity.
    """
    values, steps = np.asarray(x, np.float32), np.asarray(scale, np.float32)
    spoiled = ~np.isfinite(values).all(axis=-1, keepdims=True)
    sound: Float = np.where(spoiled, np.float32(0), values)
    codes = _to_codes(sound / steps)
    return codes, np.where(spoiled, np.float32(np.nan), steps)


def dequantize(codes: Codes, scale: Float) -> Float:
    """Returns ``codes * scale`` in float32."""
    return codes.astype(np.float32) * scale


def fake_quant(x: npt.ArrayLike, granularity: Granularity = Granularity.TOKEN) -> Float:
    """Returns ``x`` after a round trip through int8."""
    return dequantize(*quantize(x, granularity))
