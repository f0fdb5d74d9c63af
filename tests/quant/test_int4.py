"""4-bit codes over groups: error bounds, the ends of the range, packing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qfa_passes.quant import int4

groups = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 40)),
    elements=st.floats(-60000, 60000, width=32),
)
near = st.floats(-1, 1, width=32).flatmap(
    lambda center: hnp.arrays(np.float32, (1, 32), elements=st.floats(-1, 1, width=32)).map(
        lambda x: np.float32(center * 30) + x * np.float32(0.01)
    )
)


@given(st.one_of(groups, near))
def test_round_trip(x: np.ndarray) -> None:
    """The bound that kernels/formats.h states."""
    codes, scale, zero = int4.quantize(x, -1)
    assert codes.max(initial=0) <= int4.CODE_MAX
    assert (scale > 0).all()
    error = np.abs(int4.dequantize(codes, scale, zero).astype(np.float64) - x)
    step = scale.astype(np.float64)
    assert (error <= (0.5 + 2.0**-15) * step + 2.0**-17).all()


@given(st.floats(-60000, 60000, width=32))
def test_constant_groups(number: float) -> None:
    x = np.full((1, 32), number, np.float32)
    decoded = int4.dequantize(*int4.quantize(x, -1)).astype(np.float64)
    assert (np.abs(decoded - x) <= 2.0**-11 * np.abs(x) + 2.0**-24).all()


def test_the_range_is_used() -> None:
    x = np.linspace(-3, 1, 32, dtype=np.float32)[None]
    codes, scale, zero = int4.quantize(x, -1)
    assert (codes.min(), codes.max()) == (0, 15)
    np.testing.assert_allclose(scale, 4 / 15, rtol=2e-3)
    assert zero[0, 0] == 11


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e6])
def test_a_group_that_cannot_be_coded_spoils_itself_alone(bad: float) -> None:
    x = np.random.default_rng(0).standard_normal((2, 32)).astype(np.float32)
    x[1, 7] = bad
    codes, scale, zero = int4.quantize(x, -1)
    np.testing.assert_array_equal(np.isnan(scale[:, 0]), [False, True])
    assert not codes[1].any()
    assert zero[1, 0] == 0
    decoded = int4.dequantize(codes, scale, zero)
    np.testing.assert_array_equal(np.isnan(decoded), [[False] * 32, [True] * 32])


@given(st.integers(1, 130), st.sampled_from([32, 64]))
def test_groups_of_channels(channels: int, group: int) -> None:
    x = np.random.default_rng(channels).standard_normal((2, 3, channels)).astype(np.float32)
    codes, scale, zero = int4.quantize_rows(x, group)
    assert scale.shape == zero.shape == (2, 3, -(-channels // group))
    for start in range(0, channels, group):
        alone = int4.quantize(x[..., start : start + group], -1, with_zero=True)
        np.testing.assert_array_equal(codes[..., start : start + group], alone[0])
        np.testing.assert_array_equal(scale[..., start // group], alone[1][..., 0])
    decoded = int4.dequantize_rows(codes, scale, zero, group)
    assert np.abs(decoded - x).max() <= 0.51 * scale.max()
    packed = int4.pack(codes)
    assert packed.shape == (2, 3, (channels + 1) // 2)
    np.testing.assert_array_equal(packed[..., 0] & 15, codes[..., 0])
    np.testing.assert_array_equal(int4.unpack(packed, channels), codes)
