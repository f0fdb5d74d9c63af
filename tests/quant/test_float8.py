"""Floats of 8 bits against ml_dtypes."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qfa_passes.quant.float8 import E4M3, E5M2, Float8, dequantize, quantize
from qfa_passes.quant.int8 import SMALLEST_SCALE

ORACLES = [(E4M3, ml_dtypes.float8_e4m3fn), (E5M2, ml_dtypes.float8_e5m2)]
CODES = np.arange(256, dtype=np.uint8)
rows = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 40)),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)


@pytest.mark.parametrize(("form", "oracle"), ORACLES)
def test_every_code(form: Float8, oracle: type) -> None:
    expected = CODES.view(oracle).astype(np.float32)
    np.testing.assert_array_equal(form.widen(CODES), expected)
    assert (
        np.signbit(form.widen(CODES))[~np.isnan(expected)].sum()
        == np.signbit(expected[~np.isnan(expected)]).sum()
    )
    sound = np.isfinite(expected)
    np.testing.assert_array_equal(form.narrow(expected[sound]), CODES[sound])


@pytest.mark.parametrize(("form", "oracle"), ORACLES)
def test_numbers_between_codes(form: Float8, oracle: type) -> None:
    """All numbers, the middles between them, and what lies next to these."""
    numbers = form.widen(CODES[:0x7C])
    numbers = numbers[np.isfinite(numbers) & (numbers <= form.greatest)]
    middles = (numbers[1:] + numbers[:-1]) / 2
    x = np.concatenate([numbers, middles, np.nextafter(middles, 0), np.nextafter(middles, 1e9)])
    x = np.concatenate([x, -x]).astype(np.float32)
    np.testing.assert_array_equal(form.narrow(x), x.astype(oracle).view(np.uint8))


@pytest.mark.parametrize(("form", "oracle"), ORACLES)
@given(x=rows)
def test_rows(form: Float8, oracle: type, x: np.ndarray) -> None:
    codes, scale = quantize(x, form)
    absmax = np.abs(x).max(axis=-1, keepdims=True)
    full = (absmax / np.float32(form.greatest) >= SMALLEST_SCALE)[:, 0]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scaled = x * (np.float32(form.greatest) / absmax)
    scaled = np.clip(scaled, -form.greatest, form.greatest).astype(np.float32)
    np.testing.assert_array_equal(codes[full], scaled[full].astype(oracle).view(np.uint8))
    decoded = dequantize(codes, scale, form)
    half_step = 2.0 ** -(form.mantissa + 1)
    smallest = 2.0 ** (-form.bias - form.mantissa) * scale
    assert np.all(np.abs(decoded - x) <= (np.abs(x) * half_step + smallest) * (1 + 1e-5))


@pytest.mark.parametrize(("form", "oracle"), ORACLES)
def test_rows_without_numbers(form: Float8, oracle: type) -> None:
    x = np.float32([[0, 0], [np.nan, 1], [1, -np.inf], [2.0**-130, 0]])
    codes, scale = quantize(x, form)
    np.testing.assert_array_equal(codes[1:3], 0)
    np.testing.assert_array_equal(scale[:, 0], np.float32([0, np.nan, np.nan, SMALLEST_SCALE]))
    assert oracle(form.greatest) == form.greatest
