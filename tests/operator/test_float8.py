"""Attention in floats of 8 bits, against float64 attention over the numbers that they hold."""

from typing import Any

import numpy as np
import pytest

from qfa_passes.quant.attention import attention_float64
from qfa_passes.quant.cache import FLOAT8, KeyValueCache, append
from qfa_passes.quant.float8 import fake_quant
from qfa_passes.quant.masking import Masking
from tests.operator.caches import cache_node, codings, past_of, present_names
from tests.operator.sessions import VALID, Array, one_node, qkv, run
from tests.operator.test_coded_cache import check_tensors
from tests.reference.attention_cases import nmse

FORMS = {form.value: float8 for form, float8 in FLOAT8.items()}
BOUND = 1e-5
"""Weights may be rounded to bfloat16."""

SHAPES = [
    # B, S, T, D, H, Hkv
    (1, 1, 1, 8, 1, 1),
    (2, 1, 300, 64, 4, 2),
    (2, 5, 7, 16, 4, 2),
    (1, 20, 129, 64, 9, 3),
    (1, 65, 65, 80, 6, 6),
    (3, 17, 33, 40, 4, 1),
    (1, 64, 200, 128, 2, 1),
    (1, 33, 70, 256, 2, 2),
    (1, 31, 66, 57, 2, 1),
    (1, 70, 1300, 64, 2, 1),
]


def coded(inputs: dict[str, Array], form: str) -> list[Array]:
    """Q, K and V as the format holds them."""
    return [fake_quant(inputs[name], FORMS[form]) for name in ("query", "key", "value")]


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", FORMS)
def test_shapes(form: str, shape: tuple[int, ...], causal: int) -> None:
    batch, queries, keys, channels, heads, kv_heads = shape
    inputs = qkv(batch, queries, keys, channels, heads=heads, kv_heads=kv_heads)
    attributes = VALID | {
        "num_heads": heads,
        "kv_num_heads": kv_heads,
        "scale": channels**-0.5,
        "is_causal": causal,
        "compute_format": form,
    }
    (output,) = run(one_node(inputs, attributes), inputs)
    masking = Masking(causal=bool(causal))
    expected = attention_float64(*coded(inputs, form), scale=channels**-0.5, masking=masking)
    assert nmse(output, expected) <= BOUND
    exact = attention_float64(*(inputs.values()), scale=channels**-0.5, masking=masking)
    assert nmse(output, exact) <= (1e-2 if form == "fp8e4m3" else 4e-2)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("queries", [3, 40])
@pytest.mark.parametrize("form", FORMS)
def test_masks_sinks_and_caps(form: str, queries: int, dtype: type[np.generic]) -> None:
    rng = np.random.default_rng(4)
    inputs: dict[str, Any] = qkv(2, queries, 150, 32, dtype=dtype)
    terms = {
        "attn_mask": rng.random((2, 1, queries, 150)) > 0.2,
        "attn_bias": rng.standard_normal((4, 1, 150)).astype(np.float32),
        "sink": rng.standard_normal(4).astype(np.float32),
        "kv_length": np.array([150, 61]),
    }
    attributes = VALID | {"compute_format": form, "softcap": 3.0, "left_window": 90}
    (output,) = run(one_node(inputs | terms, attributes), inputs | terms)
    masking = Masking(
        mask=terms["attn_mask"], bias=terms["attn_bias"], left_window=90, kv_length=[150, 61]
    )
    arrays = coded(inputs, form)
    expected = attention_float64(
        *arrays, scale=0.25, masking=masking, softcap=3.0, sink=terms["sink"]
    )
    assert nmse(output, expected) <= BOUND


@pytest.mark.parametrize("queries", [2, 40])
@pytest.mark.parametrize("cached", ["same", "float"])
@pytest.mark.parametrize("form", FORMS)
def test_caches(form: str, cached: str, queries: int) -> None:
    """A cache of the format that is computed in, or of numbers that are coded for each run."""
    coding = codings(64, 64)[form if cached == "same" else "float"]
    inputs, past = qkv(1, queries, queries, 64), qkv(1, 1, 100, 64)
    cache = KeyValueCache.of(coding, past["key"], past["value"])
    whole = append(cache, inputs["key"], inputs["value"])
    feeds = inputs | past_of(cache)
    output, *present = run(cache_node(cache, feeds, compute_format=form), feeds)
    names = [name for name in present_names(cache)[1:] if name]
    check_tensors(dict(zip(names, present, strict=True)), whole)
    query = fake_quant(inputs["query"], FORMS[form])
    key, value = (fake_quant(x, FORMS[form]) for x in whole.decode())
    masking = Masking(causal=True, queries_at_end=True)
    expected = attention_float64(query, key, value, scale=0.125, masking=masking)
    assert nmse(output, expected) <= BOUND


@pytest.mark.parametrize("which", ["query", "key", "value"])
@pytest.mark.parametrize("queries", [5, 40])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_no_number_stays_in_its_row(form: str, queries: int, which: str) -> None:
    inputs = qkv(1, queries, queries, 16)
    attributes = VALID | {"compute_format": form, "is_causal": 1}
    model = one_node(inputs, attributes)
    (clean,) = run(model, inputs)
    inputs[which][0, 1, 3, 2] = np.inf
    (output,) = run(model, inputs)
    spoiled = np.zeros((4, queries), bool)
    if which == "query":
        spoiled[1, 3] = True
    else:
        spoiled[2:, 3:] = True
    np.testing.assert_array_equal(np.isnan(output[0]).all(axis=-1), spoiled)
    np.testing.assert_array_equal(output[0][~spoiled], clean[0][~spoiled])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("form", FORMS)
def test_threads_change_no_bit(form: str, threads: int) -> None:
    inputs = qkv(1, 70, 1300, 64)
    model = one_node(inputs, VALID | {"compute_format": form})
    (wanted,) = run(model, inputs)
    (found,) = run(model, inputs, threads=threads)
    np.testing.assert_array_equal(found, wanted)
