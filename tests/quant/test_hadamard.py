"""The Walsh-Hadamard transform."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfa_passes.errors import UnsupportedModelError
from qfa_passes.quant import hadamard


@pytest.mark.parametrize(
    ("channels", "length"), [(8, 8), (40, 8), (64, 64), (80, 16), (96, 32), (192, 64), (256, 256)]
)
def test_block_is_the_largest_power_of_two_divisor(channels: int, length: int) -> None:
    assert hadamard.block_length(channels) == length


@pytest.mark.parametrize("channels", [1, 2, 9, 12, 100])
def test_few_channels_are_refused(channels: int) -> None:
    with pytest.raises(UnsupportedModelError, match=str(channels)):
        hadamard.block_length(channels)


@pytest.mark.parametrize("channels", [8, 40, 64, 96])
def test_matrix_is_symmetric_orthogonal_and_of_sylvester_signs(channels: int) -> None:
    matrix = hadamard.matrix(channels).astype(int)
    n = hadamard.block_length(channels)
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_array_equal(matrix @ matrix, n * np.eye(channels, dtype=int))
    for row, column in np.ndindex(n, n):
        assert matrix[row, column] == (-1) ** (row & column).bit_count()


@given(st.sampled_from([8, 24, 64, 80]), st.integers(0, 2**32 - 1))
def test_transform_is_the_product_with_the_matrix(channels: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(-99, 99, (2, 3, channels))
    np.testing.assert_array_equal(hadamard.transform(x), x @ hadamard.matrix(channels).astype(int))


def test_dot_products_grow_by_the_block_length() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 96)).astype(np.float32)
    rotated = hadamard.transform(a) @ hadamard.transform(b)
    np.testing.assert_allclose(rotated, 32 * (a @ b), rtol=1e-4, atol=1e-3)


def test_no_rows_stay_no_rows() -> None:
    assert hadamard.transform(np.zeros((2, 3, 0, 24), np.float32)).shape == (2, 3, 0, 24)
