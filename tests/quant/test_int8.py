"""Int8 codes and scales."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qfa_passes.quant.int8 import (
    CODE_MAX,
    SMALLEST_SCALE,
    Granularity,
    dequantize,
    fake_quant,
    find_scale,
    quantize,
    quantize_static,
)

finite = st.floats(-(2.0**100), 2.0**100, width=32)
arrays = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=4, max_dims=4, max_side=5), elements=finite
)


@given(arrays, st.sampled_from(list(Granularity)))
def test_round_trip_error_is_at_most_half_a_step(x: np.ndarray, granularity: Granularity) -> None:
    codes, scale = quantize(x, granularity)
    error = np.abs(codes.astype(np.float64) * scale - x)
    assert np.all(error <= scale.astype(np.float64) * (0.5 + 1e-4))
    assert codes.dtype == np.int8
    assert np.abs(codes.astype(int)).max() <= CODE_MAX


@given(arrays)
def test_largest_element_of_a_token_gets_the_largest_code(x: np.ndarray) -> None:
    codes, scale = quantize(x)
    full = np.abs(x).max(axis=-1) >= CODE_MAX * SMALLEST_SCALE
    assert np.all(np.abs(codes.astype(int)).max(axis=-1)[full] == CODE_MAX)
    assert np.all(scale > 0)


@given(arrays, st.integers(-20, 20))
def test_powers_of_two_change_the_scale_and_not_the_codes(x: np.ndarray, exponent: int) -> None:
    x = np.where(np.abs(x) < 1e-20, np.float32(0), x)
    factor = np.float32(2.0**exponent)
    codes, scale = quantize(x)
    other_codes, other_scale = quantize(x * factor)
    np.testing.assert_array_equal(codes, other_codes)
    zero = ~x.any(axis=-1, keepdims=True)
    np.testing.assert_array_equal(other_scale, np.where(zero, 1, scale * factor))


@pytest.mark.parametrize(
    ("granularity", "shape"),
    [
        (Granularity.TOKEN, (2, 3, 4, 1)),
        (Granularity.TENSOR, (1, 1, 1, 1)),
        (Granularity.HEAD, (1, 3, 1, 1)),
        (Granularity.CHANNEL, (1, 3, 1, 5)),
    ],
)
def test_each_group_has_the_scale_of_its_own_maximum(
    granularity: Granularity, shape: tuple[int, ...]
) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    scale = find_scale(x, granularity)
    assert scale.shape == shape
    groups: dict[tuple[int, ...], float] = {}
    for index in np.ndindex(x.shape):
        group = tuple(min(i, extent - 1) for i, extent in zip(index, shape, strict=True))
        groups[group] = max(groups.get(group, 0.0), abs(float(x[index])))
    for group, absmax in groups.items():
        assert scale[group] == np.float32(absmax) / np.float32(127)


@pytest.mark.parametrize(
    ("value", "code"), [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-2.5, -2), (126.5, 126)]
)
def test_ties_go_to_the_even_code(value: float, code: int) -> None:
    codes, _ = quantize(np.array([[127.0, value]]))
    assert codes[0, 1] == code


def test_zero_group_has_scale_one() -> None:
    codes, scale = quantize(np.zeros((2, 4)))
    np.testing.assert_array_equal(codes, 0)
    np.testing.assert_array_equal(scale, 1)


@pytest.mark.parametrize("tiny", [1e-45, 1e-38, 1e-30])
def test_scales_have_a_floor(tiny: float) -> None:
    codes, scale = quantize(np.array([[tiny, 0.0]], np.float32))
    assert scale[0, 0] == max(np.float32(SMALLEST_SCALE), np.float32(tiny) / np.float32(127))
    assert np.all(np.isfinite(dequantize(codes, scale)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_spoiled_row_turns_into_nan_and_no_other(bad: float) -> None:
    x = np.ones((3, 4), np.float32)
    x[1, 2] = bad
    for codes, scale in (quantize(x), quantize_static(x, 0.5)):
        np.testing.assert_array_equal(codes[1], 0)
        np.testing.assert_array_equal(
            np.isnan(dequantize(codes, scale)).any(axis=-1), [False, True, False]
        )
    assert np.isnan(fake_quant(x, Granularity.TENSOR)).all()


def test_static_scales_clamp() -> None:
    codes, scale = quantize_static(np.array([[1e9, -1e9, 0.3, 0.25]]), 0.1)
    np.testing.assert_array_equal(codes, [[127, -127, 3, 2]])
    np.testing.assert_array_equal(scale, [[np.float32(0.1)]])


def test_empty_arrays_pass() -> None:
    codes, scale = quantize(np.zeros((2, 0, 4)))
    assert codes.shape == (2, 0, 4)
    assert scale.shape == (2, 0, 1)
