"""Caches in numpy: tokens may come one by one or at once, and come back as near as their codes allow."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfa_passes.core.formats import CacheFormat
from qfa_passes.quant import hadamard
from qfa_passes.quant.attention import attention_float64
from qfa_passes.quant.cache import CacheCoding, KeyValueCache, append
from tests.reference.attention_cases import nmse

Array = np.ndarray[Any, Any]

CODINGS = {
    "float": CacheCoding(form=CacheFormat.FLOAT),
    "int8": CacheCoding(form=CacheFormat.INT8),
    "int8 rotated": CacheCoding(form=CacheFormat.INT8, k_mean=np.full((2, 16), 0.5), rotate=True),
    "int8 channel": CacheCoding(
        form=CacheFormat.INT8,
        key_scale=np.full((2, 16), 0.03, np.float32),
        value_scale=np.full((2, 9), 0.03, np.float32),
    ),
    "int4": CacheCoding(form=CacheFormat.INT4),
    "int4 rotated": CacheCoding(form=CacheFormat.INT4, k_mean=np.full((2, 16), 0.5), rotate=True),
    "fp8e4m3": CacheCoding(form=CacheFormat.FP8E4M3),
    "fp8e5m2": CacheCoding(form=CacheFormat.FP8E5M2),
}
BOUNDS = {"float": 0, "int8": 1e-4, "int4": 1e-2, "fp8e4m3": 1e-3, "fp8e5m2": 4e-3}
"""NMSE of what comes back, unit-normal tokens."""


def tokens(count: int, dtype: Any = np.float32, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    key = rng.standard_normal((2, 2, count, 16)).astype(dtype)
    return key, rng.standard_normal((2, 2, count, 9)).astype(dtype)


@pytest.mark.parametrize("name", CODINGS)
@given(parts=st.lists(st.integers(0, 40), min_size=1, max_size=4))
def test_tokens_may_come_in_any_parts(name: str, parts: list[int]) -> None:
    key, value = tokens(sum(parts))
    whole = KeyValueCache.of(CODINGS[name], key, value)
    cache, start = KeyValueCache.of(CODINGS[name], key[:, :, :0], value[:, :, :0]), 0
    for count in parts:
        part = slice(start, start + count)
        cache, start = append(cache, key[:, :, part], value[:, :, part]), start + count
    assert cache.tensors.keys() == whole.tensors.keys()
    for tensor, expected in whole.tensors.items():
        assert cache.tensors[tensor].dtype == expected.dtype
        np.testing.assert_array_equal(cache.tensors[tensor], expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", CODINGS)
def test_what_comes_back(name: str, dtype: Any) -> None:
    key, value = tokens(200, dtype)
    coding = CODINGS[name]
    found_key, found_value = KeyValueCache.of(coding, key, value).decode()
    bound = BOUNDS[name.split()[0]]
    assert found_value.shape == value.shape
    assert nmse(found_value, value.astype(np.float64)) <= bound
    assert nmse(found_key, coding.prepare(key).astype(np.float64)) <= bound


def test_newest_keys_of_int4_are_exact() -> None:
    key, value = tokens(70)
    found, _ = KeyValueCache.of(CODINGS["int4"], key, value).decode()
    np.testing.assert_array_equal(found[:, :, 64:], key[:, :, 64:])
    assert (found[:, :, :64] != key[:, :, :64]).any()


def test_rotated_keys_meet_rotated_queries() -> None:
    """Softmax sees neither the mean nor, with a rotated query, the rotation."""
    key, value = tokens(150)
    query = np.random.default_rng(1).standard_normal((2, 4, 3, 16)).astype(np.float32)
    expected = attention_float64(query, key, value, scale=0.25)
    for name in ("int8 rotated", "int4 rotated"):
        turned, found = KeyValueCache.of(CODINGS[name], key, value).decode()
        output = attention_float64(hadamard.transform(query), turned, found, scale=0.25 / 16)
        assert nmse(output, expected) <= 4 * BOUNDS[name.split()[0]]


def test_rows_without_numbers() -> None:
    key, value = tokens(3)
    key[:, :, 1] = 0
    value[:, :, 2, 4] = np.nan
    for name in ("int8", "fp8e4m3", "fp8e5m2"):
        cache = KeyValueCache.of(CODINGS[name], key, value)
        assert not cache.tensors["key_scale"][:, :, 1].any()
        found_key, found_value = cache.decode()
        assert not found_key[:, :, 1].any()
        np.testing.assert_array_equal(
            np.isnan(found_value), np.isnan(value).any(axis=-1, keepdims=True).repeat(9, axis=-1)
        )
