"""What is no number stays where its scale reaches: the token, the group of tokens or the group of channels."""

from typing import Any

import numpy as np
import pytest

from qfa_passes.quant.cache import KeyValueCache
from tests.operator.caches import attend, cache_node, codings, constants_of, past_of
from tests.operator.sessions import Array, qkv, run

TOKENS = 100
CODINGS = codings(64, 64)


def spoiled_rows(name: str, which: str, place: int, value: float, queries: int) -> Array:
    """Flags (queries, Dv) of head 1's results that are NaN, where token `place` of its keys or values is spoiled."""
    inputs = qkv(1, queries, TOKENS, 64)
    inputs[which][0, 1, place, 5] = value
    coding = CODINGS[name]
    cache = KeyValueCache.of(coding, inputs["key"][:, :, :0], inputs["value"][:, :, :0])
    feeds = inputs | past_of(cache) | constants_of(coding)
    output, *_ = run(cache_node(cache, feeds), feeds)
    spoiled: Array = np.isnan(output)
    assert not spoiled[0, :2].any(), "heads of the other key/value head"
    np.testing.assert_array_equal(spoiled[0, 2], spoiled[0, 3])
    return spoiled[0, 2]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("queries", [3, 40])
@pytest.mark.parametrize("which", ["key", "value"])
@pytest.mark.parametrize("name", ["int8", "int8 rotated", "fp8e4m3", "fp8e5m2"])
def test_a_token(name: str, which: str, queries: int, value: float) -> None:
    place = TOKENS - 2
    found = spoiled_rows(name, which, place, value, queries)
    sees = np.arange(TOKENS - queries, TOKENS) >= place
    np.testing.assert_array_equal(found, sees[:, None].repeat(64, axis=1))


@pytest.mark.parametrize("queries", [3, 40])
def test_a_group_of_keys(queries: int) -> None:
    """Tokens 64 to 95 are one group; 96 to 99 are not coded yet."""
    found = spoiled_rows("int4", "key", 80, np.nan, queries)
    sees = np.arange(TOKENS - queries, TOKENS) >= 64
    np.testing.assert_array_equal(found, sees[:, None].repeat(64, axis=1))
    found = spoiled_rows("int4", "key", 98, np.nan, queries)
    sees = np.arange(TOKENS - queries, TOKENS) >= 98
    np.testing.assert_array_equal(found, sees[:, None].repeat(64, axis=1))


@pytest.mark.parametrize("queries", [3, 40])
def test_a_group_of_channels(queries: int) -> None:
    """Channel 5 spoils channels 0 to 31; where there are many queries, a token has one scale."""
    found = spoiled_rows("int4", "value", 98, np.nan, queries)
    sees = np.arange(TOKENS - queries, TOKENS) >= 98
    np.testing.assert_array_equal(found[:, :32], sees[:, None].repeat(32, axis=1))
    if queries == 3:
        assert not found[:, 32:].any()


@pytest.mark.parametrize("which", ["key", "value"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scales_per_channel_make_zeros_of_it(which: str, value: float) -> None:
    """A scale that is given cannot say NaN, so that the codes of such a token are 0."""
    assert not spoiled_rows("int8 channel", which, 98, value, 3).any()


@pytest.mark.parametrize("name", [name for name in CODINGS if name != "float"])
def test_tokens_beyond_the_length_may_be_anything(name: str) -> None:
    """A past of 96 tokens, of which 64 are seen."""
    inputs: dict[str, Any] = qkv(1, 2, 96, 64)
    coding = CODINGS[name]
    cache = KeyValueCache.of(coding, inputs["key"], inputs["value"])
    now = inputs | {key: inputs[key][:, :, :0] for key in ("key", "value")}
    now |= constants_of(coding) | {"kv_length": np.array([64])}
    clean, *_ = run(cache_node(cache, now | past_of(cache)), now | past_of(cache))
    past = past_of(cache)
    for key, array in past.items():
        if key in ("past_key_scale", "past_value_scale"):
            start = 2 if array.ndim == 4 and array.shape[2] == 3 else 64
            array[:, :, start:] = np.nan
    output, *_ = run(cache_node(cache, now | past), now | past)
    np.testing.assert_array_equal(output, clean)
    exact, _ = attend(inputs["query"], cache, kv_length=[64])
    assert np.isfinite(exact).all()
