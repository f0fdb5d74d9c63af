"""Asymmetric 4-bit codes 0..15 over groups: value = scale * (code - zero point).

Scales are in half precision, zero points int8. A group that holds NaN or an infinity, or is too
wide for a scale in half precision, has scale NaN and codes and zero point 0.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from qfa_passes.quant.int8 import Codes, Float

Bytes = npt.NDArray[np.uint8]
Half = npt.NDArray[np.float16]

CODE_MAX: Final = 15
SMALLEST_SCALE: Final = np.float16(2.0**-24)


def quantize(x: npt.ArrayLike, axis: int, *, with_zero: bool = False) -> tuple[Bytes, Half, Codes]:
    """Returns codes like ``x``, scales and zero points; an axis of ``x`` is a group, and has extent 1 in these.

    Args:
        x: The numbers.
        axis: The axis whose numbers share a scale.
        with_zero: Every group's range holds 0, as those of values must: their scales become part of the softmax
            weights, where a number many steps from 0 would cost precision.
    """
    values = np.asarray(x, np.float32)
    low, high = values.min(axis=axis, keepdims=True), values.max(axis=axis, keepdims=True)
    if with_zero:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    with np.errstate(invalid="ignore", over="ignore"):
        scale, zero = _steps(low, high)
        spoiled = ~np.isfinite(low) | ~np.isfinite(high) | ~np.isfinite(scale)
        codes = np.clip(np.rint(values / scale.astype(np.float32)) + zero, 0, CODE_MAX)
    return (
        np.where(spoiled, 0, codes).astype(np.uint8),
        np.where(spoiled, np.float16(np.nan), scale),
        np.where(spoiled, 0, zero).astype(np.int8),
    )


def dequantize(codes: Bytes, scale: Half, zero_point: Codes) -> Float:
    """Returns ``scale * (codes - zero_point)`` in float32."""
    steps = codes.astype(np.float32) - zero_point.astype(np.float32)
    return scale.astype(np.float32) * steps


def quantize_rows(x: npt.ArrayLike, group: int) -> tuple[Bytes, Half, Codes]:
    """Codes rows of (..., channels) over groups of channels, the last of which may be shorter.

    Returns:
        Codes like ``x``; scales and zero points (..., ceil(channels / group)).
    """
    values = np.asarray(x, np.float32)
    channels = values.shape[-1]
    rest = -channels % group
    # The last channel once more changes neither the least nor the greatest of a group.
    padded = np.concatenate([values, values[..., -1:].repeat(rest, axis=-1)], axis=-1)
    grouped = padded.reshape(*values.shape[:-1], (channels + rest) // group, group)
    codes, scale, zero_point = quantize(grouped, -1, with_zero=True)
    return codes.reshape(padded.shape)[..., :channels], scale[..., 0], zero_point[..., 0]


def dequantize_rows(codes: Bytes, scale: Half, zero_point: Codes, group: int) -> Float:
    """Returns the rows (..., channels) of which ``quantize_rows`` made codes."""
    channels = codes.shape[-1]
    steps = scale.repeat(group, axis=-1)[..., :channels]
    return dequantize(codes, steps, zero_point.repeat(group, axis=-1)[..., :channels])


def pack(codes: Bytes) -> Bytes:
    """Returns (..., ceil(n / 2)): two codes in a byte, the even one low."""
    padded = np.concatenate([codes, np.zeros_like(codes[..., : codes.shape[-1] % 2])], axis=-1)
    packed: Bytes = padded[..., 0::2] | padded[..., 1::2] << 4
    return packed


def unpack(packed: Bytes, count: int) -> Bytes:
    """Returns the ``count`` codes of each row."""
    both = np.stack([packed & np.uint8(CODE_MAX), packed >> 4], axis=-1)
    codes: Bytes = both.reshape(*packed.shape[:-1], 2 * packed.shape[-1])[..., :count]
    return codes


def _steps(low: Float, high: Float) -> tuple[Half, Float]:
    """Returns scales, infinite where they are too large, and zero points of groups from low to high."""
    span = high - low
    scale = _rounded_up(span / np.float32(CODE_MAX))
    zero = np.rint(-low / scale.astype(np.float32))
    # Where a group is narrow for its distance from 0, its middle becomes a multiple of the scale.
    middle = low + span * np.float32(0.5)
    distance, below = np.abs(middle), middle < 0
    single = (distance < 1) & (span * np.float32(135) <= distance)
    steps = np.where(single, 1, np.where(below, 119, 135)).astype(np.float32)
    other = np.maximum((distance / steps).astype(np.float16), SMALLEST_SCALE)
    other_zero = np.where(single, np.where(below, 1, 0), np.where(below, 127, -128))
    far = (zero < -128) | (zero > 127)
    return np.where(far, other, scale), np.where(far, other_zero, zero).astype(np.float32)


def _rounded_up(x: Float) -> Half:
    """Returns ``x`` in half precision, rounded up, at least the smallest number."""
    half = x.astype(np.float16)
    half = np.where(half.astype(np.float32) < x, np.nextafter(half, np.float16(np.inf)), half)
    return np.maximum(half, SMALLEST_SCALE)
