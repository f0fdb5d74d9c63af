"""A few queries against a 4-bit cache: near attention over what the cache decodes to."""

from typing import Any

import numpy as np
import pytest

from qfa_passes.core.formats import CacheFormat
from qfa_passes.quant import hadamard
from qfa_passes.quant.attention import attention_float64
from qfa_passes.quant.attention_int4 import attention_int4
from qfa_passes.quant.cache import CacheCoding, KeyValueCache
from qfa_passes.quant.masking import Masking
from tests.reference.attention_cases import nmse

Array = np.ndarray[Any, Any]

PLAIN = CacheCoding(form=CacheFormat.INT4)
ROTATED = CacheCoding(form=CacheFormat.INT4, rotate=True, k_mean=np.full((2, 64), 0.7))
WIDE = CacheCoding(form=CacheFormat.INT4, group=64)


def tokens(count: int, seed: int = 0) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    query = rng.standard_normal((2, 4, 4, 64)).astype(np.float32)
    key, value = rng.standard_normal((2, 2, 2, count, 64)).astype(np.float32)
    return query, key, value


@pytest.mark.parametrize("count", [1, 31, 32, 64, 100, 700, 2000])
@pytest.mark.parametrize("coding", [PLAIN, ROTATED, WIDE])
def test_near_float64(coding: CacheCoding, count: int) -> None:
    query, key, value = tokens(count)
    cache = KeyValueCache.of(coding, key, value)
    decoded_key, decoded_value = cache.decode()
    turned, scale = query, 0.125
    if coding.rotate:
        turned, scale = hadamard.transform(query), 0.125 / 64
    exact = attention_float64(turned, decoded_key, decoded_value, scale=scale)
    assert nmse(attention_int4(query, cache, scale=0.125), exact) <= 5e-4


def test_masks_and_a_sink() -> None:
    query, key, value = tokens(150)
    cache = KeyValueCache.of(PLAIN, key, value)
    masking = Masking(causal=True, queries_at_end=True, left_window=90, kv_length=[150, 70])
    sink = np.float32([0.5, -np.inf, 2, 0])
    terms: dict[str, Any] = {"scale": 0.125, "masking": masking, "sink": sink}
    exact = attention_float64(query, *cache.decode(), **terms)
    assert nmse(attention_int4(query, cache, **terms), exact) <= 5e-4


def test_what_is_masked_has_no_effect() -> None:
    """Whole groups of keys, and values one by one, may hold anything."""
    query, key, value = tokens(160)
    masking = Masking(mask=np.arange(160) < 96)
    clean = attention_int4(query, KeyValueCache.of(PLAIN, key, value), scale=0.125, masking=masking)
    key[:, :, 96:], value[:, :, 96:] = np.nan, 1e30
    output = attention_int4(
        query, KeyValueCache.of(PLAIN, key, value), scale=0.125, masking=masking
    )
    np.testing.assert_array_equal(output, clean)


def test_a_row_that_sees_nothing_is_zero() -> None:
    query, key, value = tokens(40)
    masking = Masking(mask=np.arange(4)[:, None] != 2)
    output = attention_int4(
        query, KeyValueCache.of(PLAIN, key, value), scale=0.125, masking=masking
    )
    assert not output[:, :, 2].any()
    assert output[:, :, 3].any()
