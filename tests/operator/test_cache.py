"""Past keys and values in front, and what the next run gets, against attention over the joined tensors."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from qfa_passes.quant.attention import attention_int8
from qfa_passes.quant.masking import Masking
from tests.operator.sessions import VALID, Array, one_node, open_session, qkv, run
from tests.operator.test_layouts import folded
from tests.reference.attention_cases import nmse

ALL = ("output", "present_key", "present_value")
AT_END = VALID | {"is_causal": 1, "queries_at_end": 1}


def with_past(past: int, queries: int, keys: int, dtype: Any = np.float32) -> dict[str, Array]:
    """Returns inputs whose past has ``past`` tokens; V has 9 channels."""
    rng = np.random.default_rng(5)
    inputs = qkv(2, queries, keys, dtype=dtype)
    inputs["value"] = inputs["value"][..., :9].copy()
    inputs["past_key"] = rng.standard_normal((2, 2, past, 16)).astype(dtype)
    inputs["past_value"] = rng.standard_normal((2, 2, past, 9)).astype(dtype)
    return inputs


def joined(inputs: dict[str, Array], name: str) -> Array:
    return np.concatenate([inputs[f"past_{name}"], inputs[name]], axis=2)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("sizes", [(63, 3, 3), (0, 5, 5), (130, 1, 1), (7, 4, 0), (64, 40, 70)])
@pytest.mark.parametrize("outputs", [ALL, ALL[:1], ALL[:2], ("output", "", ALL[2])])
def test_past(
    outputs: tuple[str, ...], sizes: tuple[int, int, int], dtype: type[np.generic]
) -> None:
    inputs = with_past(*sizes, dtype=dtype)
    results = run(one_node(inputs, AT_END, outputs=outputs), inputs)
    found = dict(zip([name for name in outputs if name], results, strict=True))
    key, value = joined(inputs, "key"), joined(inputs, "value")
    masking = Masking(causal=True, queries_at_end=True)
    expected = attention_int8(inputs["query"], key, value, scale=0.25, masking=masking)
    assert nmse(found["output"], expected) <= 1e-6
    plain = {"query": inputs["query"], "key": key, "value": value}
    np.testing.assert_array_equal(found["output"], run(one_node(plain, AT_END), plain)[0])
    for name, whole in (("present_key", key), ("present_value", value)):
        if name in found:
            assert found[name].dtype == dtype
            np.testing.assert_array_equal(found[name], whole)


@pytest.mark.parametrize("flat", list(product([False, True], repeat=3)))
def test_layouts_mix_with_a_past(flat: tuple[bool, bool, bool]) -> None:
    inputs = with_past(30, 5, 41)
    lengths = {"kv_length": np.array([66, 40]), "attn_mask": np.arange(71) % 3 > 0}
    expected = run(one_node(inputs | lengths, AT_END, outputs=ALL), inputs | lengths)
    for name, one in zip(("query", "key", "value"), flat, strict=True):
        inputs[name] = folded(inputs[name]) if one else inputs[name]
    found = run(one_node(inputs | lengths, AT_END, outputs=ALL), inputs | lengths)
    expected[0] = folded(expected[0]) if flat[0] else expected[0]
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_present_without_a_past() -> None:
    inputs = qkv(2, 5, 7)
    inputs["key"] = folded(inputs["key"])
    _, key, value = run(one_node(inputs, outputs=ALL), inputs)
    np.testing.assert_array_equal(folded(key), inputs["key"])
    np.testing.assert_array_equal(value, inputs["value"])


def test_present_without_queries() -> None:
    inputs = with_past(3, 0, 4)
    output, key, _ = run(one_node(inputs, outputs=ALL), inputs)
    assert output.shape == (2, 4, 0, 9)
    np.testing.assert_array_equal(key, joined(inputs, "key"))


def test_decoding_token_by_token_equals_one_run() -> None:
    inputs = qkv(1, 9, 9)
    (expected,) = run(one_node(inputs, AT_END), inputs)
    past: dict[str, Array] = {
        "past_key": np.zeros((1, 2, 0, 16), np.float32),
        "past_value": np.zeros((1, 2, 0, 16), np.float32),
    }
    session = open_session(one_node(inputs | past, AT_END, outputs=ALL), threads=2)
    for i in range(9):
        token = {name: x[:, :, i : i + 1].copy() for name, x in inputs.items()}
        output, past["past_key"], past["past_value"] = session.run(None, token | past)
        np.testing.assert_array_equal(output, expected[:, :, i : i + 1])


def test_shape_of_the_output_beside_a_cache() -> None:
    inputs = with_past(3, 5, 7)
    model = one_node(inputs, outputs=ALL)
    for value in model.graph.input:
        for extent in inputs[value.name].shape:
            value.type.tensor_type.shape.dim.add().dim_value = extent
    assert open_session(model).get_outputs()[0].shape == [2, 4, 5, 9]
