"""Caches of codes: what the next run gets, bit for bit, and attention over what the cache holds."""

from typing import Any

import numpy as np
import pytest

from qfa_passes.quant.attention import attention_float64
from qfa_passes.quant.cache import KeyValueCache, append
from qfa_passes.quant.int8 import quantize_static
from qfa_passes.quant.masking import Masking
from tests.operator.caches import (
    KV_HEADS,
    attend,
    cache_node,
    codings,
    constants_of,
    is_integer,
    past_of,
    present_names,
)
from tests.operator.sessions import Array, open_session, qkv, run
from tests.reference.attention_cases import nmse

NAMES = [name for name in codings(16, 9) if name != "float"]


def new_tokens(
    batch: int, queries: int, keys: int, channels: int, v_channels: int, dtype: Any = np.float32
) -> dict[str, Array]:
    inputs = qkv(batch, queries, keys, channels, dtype=dtype)
    inputs["value"] = qkv(batch, 1, keys, v_channels, dtype=dtype)["key"][..., ::-1].copy()
    return inputs


def past_tokens(
    batch: int, count: int, channels: int, v_channels: int, dtype: Any
) -> tuple[Array, Array]:
    rng = np.random.default_rng(5)
    shape = (batch, KV_HEADS, count)
    key, value = rng.standard_normal((*shape, channels)), rng.standard_normal((*shape, v_channels))
    return key.astype(dtype), value.astype(dtype)


def check_tensors(found: dict[str, Array], expected: KeyValueCache) -> None:
    """Compares present tensors; what means nothing is zero in both."""
    assert {name.removeprefix("present_") for name in found} == expected.tensors.keys()
    for name, wanted in expected.tensors.items():
        array = found[f"present_{name}"]
        assert (array.dtype, array.shape) == (wanted.dtype, wanted.shape), name
        np.testing.assert_array_equal(array, wanted, err_msg=name)


def check_output(output: Array, query: Array, cache: KeyValueCache, **masking: Any) -> None:
    exact, definition = attend(query, cache, **masking)
    assert nmse(output, exact) <= (5e-4 if is_integer(cache.coding) else 1e-11)
    if definition is not None:
        assert nmse(output, definition) <= 1e-5


@pytest.mark.parametrize("channels", [(16, 9), (64, 64), (24, 80), (128, 33)])
@pytest.mark.parametrize(
    "sizes", [(0, 5), (63, 1), (64, 3), (31, 1), (32, 16), (130, 40), (7, 0), (1500, 2)]
)
@pytest.mark.parametrize("name", NAMES)
def test_one_step(name: str, sizes: tuple[int, int], channels: tuple[int, int]) -> None:
    """Present tensors, and attention, for P past and T new tokens."""
    past, new = sizes
    coding = codings(*channels)[name]
    cache = KeyValueCache.of(coding, *past_tokens(2, past, *channels, np.float32))
    inputs = new_tokens(2, max(new, 1), new, *channels)
    expected = append(cache, inputs["key"], inputs["value"])
    feeds = inputs | past_of(cache) | constants_of(coding)
    output, *present = run(cache_node(cache, feeds), feeds)
    names = [x for x in present_names(cache)[1:] if x]
    check_tensors(dict(zip(names, present, strict=True)), expected)
    check_output(output, inputs["query"], expected)


@pytest.mark.parametrize("steps", [[1] * 40, [7, 1, 1, 16, 2, 5, 1], [70, 1, 1, 33, 1]])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", NAMES)
def test_decoding(name: str, dtype: type[np.generic], steps: list[int]) -> None:
    """The tensors of each step are those of the run before."""
    channels = (32, 48)
    coding = codings(*channels)[name]
    whole = new_tokens(2, sum(steps), sum(steps), *channels, dtype=dtype)
    none = {key: x[:, :, :0] for key, x in whole.items()}
    expected = KeyValueCache.of(coding, none["key"], none["value"])
    past = past_of(expected)
    session = open_session(cache_node(expected, none | past | constants_of(coding)), threads=2)
    names = [x for x in present_names(expected)[1:] if x]
    start = 0
    for count in steps:
        step = {key: x[:, :, start : start + count] for key, x in whole.items()}
        start += count
        expected = append(expected, step["key"], step["value"])
        output, *present = session.run(None, step | past | constants_of(coding))
        found = dict(zip(names, present, strict=True))
        check_tensors(found, expected)
        exact, _ = attend(step["query"], expected)
        half = 1e-6 if dtype is np.float16 else 0
        assert nmse(output, exact) <= (5e-4 if is_integer(coding) else 1e-11 + half)
        past = {key.replace("present", "past"): x for key, x in found.items()}


@pytest.mark.parametrize("name", NAMES)
def test_lengths_and_masks(name: str) -> None:
    """Keys beyond kv_length are not seen, and stay in the cache all the same."""
    coding = codings(16, 16)[name]
    cache = KeyValueCache.of(coding, *past_tokens(2, 90, 16, 16, np.float32))
    inputs = new_tokens(2, 3, 3, 16, 16)
    expected = append(cache, inputs["key"], inputs["value"])
    mask = np.random.default_rng(1).random((2, 1, 3, 93)) > 0.2
    terms = {"kv_length": np.array([93, 41]), "attn_mask": mask}
    feeds = inputs | past_of(cache) | constants_of(coding) | terms
    output, *present = run(cache_node(cache, feeds), feeds)
    check_tensors(
        dict(zip([x for x in present_names(cache)[1:] if x], present, strict=True)), expected
    )
    exact, _ = attend(inputs["query"], expected, kv_length=[93, 41], mask=mask)
    assert nmse(output, exact) <= (5e-4 if is_integer(coding) else 1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_a_cache_that_is_only_read(name: str) -> None:
    """As cross attention does it: no new tokens, and no outputs but one."""
    coding = codings(16, 16)[name]
    cache = KeyValueCache.of(coding, *past_tokens(2, 77, 16, 16, np.float32))
    inputs = new_tokens(2, 5, 0, 16, 16)
    feeds = inputs | past_of(cache) | constants_of(coding)
    model = cache_node(cache, feeds, is_causal=0)
    del model.graph.node[0].output[1:]
    del model.graph.output[1:]
    (output,) = run(model, feeds)
    check_output(output, inputs["query"], cache, causal=False)


def test_int8_decoding_has_the_bits_of_one_run() -> None:
    """The cache holds the very codes that a run without a cache computes with."""
    coding = codings(16, 16)["int8 rotated"]
    inputs = new_tokens(2, 9, 100, 16, 16)
    constants = constants_of(coding)
    cache = KeyValueCache.of(coding, inputs["key"][:, :, :91], inputs["value"][:, :, :91])
    last = inputs | {name: inputs[name][:, :, 91:].copy() for name in ("key", "value")}
    feeds = last | past_of(cache) | constants
    output = run(cache_node(cache, feeds), feeds)[0]
    plain = KeyValueCache.of(codings(16, 16)["float"], inputs["key"], inputs["value"])
    node = cache_node(plain, inputs | constants, compute_format="int8", rotate="hadamard")
    np.testing.assert_array_equal(output, run(node, inputs | constants)[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", codings(16, 16))
def test_types_of_outputs_are_inferred(name: str, dtype: type[np.generic]) -> None:
    """Other nodes may take each output; the shapes of all inputs are unknown."""
    coding = codings(16, 16)[name]
    inputs = new_tokens(1, 2, 2, 16, 16, dtype)
    cache = KeyValueCache.of(coding, inputs["key"][:, :, :0], inputs["value"][:, :, :0])
    feeds = inputs | past_of(cache) | constants_of(coding)
    model = cache_node(cache, feeds)
    for value in model.graph.output:
        model.graph.node.add(op_type="Identity", input=[value.name], output=[f"{value.name}_on"])
        value.name += "_on"
    expected = append(cache, inputs["key"], inputs["value"])
    output, *present = run(model, feeds)
    assert output.dtype == dtype
    names = [x for x in present_names(cache)[1:] if x]
    check_tensors(dict(zip(names, present, strict=True)), expected)


def test_static_steps_are_what_the_cache_says() -> None:
    """Int8 per token; each token then has the same scale."""
    coding = codings(16, 16)["int8"]
    inputs = new_tokens(1, 5, 40, 16, 16)
    cache = KeyValueCache.of(coding, inputs["key"][:, :, :0], inputs["value"][:, :, :0])
    steps = {f"{name}_scale": np.array(0.03, np.float32) for name in "qkv"}
    feeds = inputs | past_of(cache) | steps
    model = cache_node(cache, feeds, scale_mode="static")
    output, key, value, key_scale, value_scale = run(model, feeds)
    assert set(key_scale.ravel()) | set(value_scale.ravel()) == {np.float32(0.03)}
    np.testing.assert_array_equal(key, quantize_static(inputs["key"], 0.03)[0])
    np.testing.assert_array_equal(value, quantize_static(inputs["value"], 0.03)[0])
    exact = attention_float64(
        inputs["query"],
        key * np.float32(0.03),
        value * np.float32(0.03),
        scale=0.25,
        masking=Masking(causal=True, queries_at_end=True),
    )
    assert nmse(output, exact) <= 5e-4
