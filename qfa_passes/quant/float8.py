"""Floats of 8 bits with a scale per token: value = number * scale, scale = absmax / greatest number.

Rounding is half to even. A row of zeros has scale 0. A row that holds NaN or an infinity has scale
NaN and codes 0, so that it turns into NaN as a whole.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from qfa_passes.quant.int8 import SMALLEST_SCALE, Float

Bytes = npt.NDArray[np.uint8]

_SIGN: Final = 0x80


@dataclass(frozen=True, slots=True)
class Float8:
    """A sign, an exponent and a mantissa in 8 bits.

    Attributes:
        mantissa: Bits of the mantissa.
        bias: What is added to an exponent.
        greatest: The greatest number that is not infinite.
    """

    mantissa: int
    bias: int
    greatest: float

    def widen(self, codes: Bytes) -> Float:
        """Returns the numbers that codes stand for; magnitudes beyond the greatest are NaN or, in e5m2, infinity."""
        magnitude = (codes & (_SIGN - 1)).astype(np.int32)
        exponent = np.maximum(magnitude >> self.mantissa, 1)
        steps = magnitude - ((exponent - 1) << self.mantissa)
        numbers = np.ldexp(steps.astype(np.float32), exponent - self.bias - self.mantissa)
        beyond = numbers > self.greatest
        infinite = beyond & (magnitude == self.infinity)
        numbers = np.where(beyond, np.where(infinite, np.inf, np.nan), numbers)
        return np.where(codes & _SIGN, -numbers, numbers).astype(np.float32)

    @property
    def infinity(self) -> int:
        """The code of infinity; -1 where there is none."""
        return 0x7C if self.mantissa == 2 else -1

    def narrow(self, x: Float) -> Bytes:
        """Returns the codes of numbers, which are clamped to the greatest."""
        magnitude = np.minimum(np.abs(x), np.float32(self.greatest))
        # A magnitude is below 2**exponent, and at least half of it unless it is subnormal.
        exponent = np.where(magnitude > 0, np.frexp(magnitude)[1], -126)
        exponent = np.maximum(exponent, 2 - self.bias)
        steps = np.rint(np.ldexp(magnitude, 1 + self.mantissa - exponent)).astype(np.int32)
        codes = steps + ((exponent + self.bias - 2) << self.mantissa)
        signed: Bytes = np.where(np.signbit(x), codes | _SIGN, codes).astype(np.uint8)
        return signed


E4M3: Final = Float8(mantissa=3, bias=7, greatest=448.0)
"""e4m3fn: no infinity."""
E5M2: Final = Float8(mantissa=2, bias=15, greatest=57344.0)


def quantize(x: npt.ArrayLike, form: Float8) -> tuple[Bytes, Float]:
    """Returns codes like ``x`` and the scales (..., 1) of its rows."""
    values = np.asarray(x, np.float32)
    absmax = np.max(np.abs(values), axis=-1, keepdims=True, initial=0)
    greatest, smallest = np.float32(form.greatest), np.float32(SMALLEST_SCALE)
    scale = absmax / greatest
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(scale < smallest, 1 / smallest, greatest / absmax)
    spoiled = ~np.isfinite(absmax)
    codes = form.narrow(np.where(spoiled, np.float32(0), values) * np.where(spoiled, 1, inverse))
    scale = np.where(absmax == 0, absmax, np.maximum(scale, smallest))
    return np.where(spoiled, np.uint8(0), codes), np.where(spoiled, np.float32(np.nan), scale)


def dequantize(codes: Bytes, scale: Float, form: Float8) -> Float:
    """Returns ``codes * scale`` in float32."""
    return form.widen(codes) * scale


def fake_quant(x: npt.ArrayLike, form: Float8) -> Float:
    """Returns ``x`` after a round trip: what attention in such floats computes with."""
    return dequantize(*quantize(x, form), form)
