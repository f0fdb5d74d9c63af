"""Positions, windows and lengths in ONNX Runtime against float64 attention and the definition of int8 attention."""

from typing import Any

import numpy as np
import pytest

from qfa_passes.quant.attention import attention_float64, attention_int8
from qfa_passes.quant.masking import Masking
from tests.operator.sessions import VALID, one_node, qkv, run
from tests.reference.attention_cases import nmse

CASES: list[dict[str, Any]] = [
    {"causal": True, "queries_at_end": True},
    {"causal": True, "left_window": 5},
    {"left_window": 3, "right_window": 2},
    {"left_window": 0, "right_window": 0},
    {"right_window": 70, "queries_at_end": True},
    {"causal": True, "left_window": 90, "queries_at_end": True},
    {"left_window": 2**62, "right_window": 2**62},
    {"kv_length": [0, 1]},
    {"kv_length": [70, 199]},
    {"kv_length": [2**63 - 1]},
    {"kv_length": [-5, 40]},
    {"kv_length": [130], "causal": True},
    {"kv_length": [150, 20], "causal": True, "queries_at_end": True},
    {"kv_length": [150, 20], "left_window": 9, "right_window": 30, "queries_at_end": True},
]


@pytest.mark.parametrize("masked", ["", "mask", "bias"])
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_reach(case: dict[str, Any], masked: str) -> None:
    inputs = qkv(2, 37, 200)
    terms: dict[str, Any] = {}
    rng = np.random.default_rng(3)
    if masked == "mask":
        terms["mask"] = rng.random((2, 1, 37, 200)) > 0.2
    if masked == "bias":
        terms["bias"] = rng.standard_normal((4, 37, 200)).astype(np.float32)
    masking = Masking(**case, **terms)
    expected = attention_float64(*inputs.values(), scale=0.25, masking=masking)
    definition = attention_int8(*inputs.values(), scale=0.25, masking=masking)
    inputs |= {f"attn_{name}": array for name, array in terms.items()}
    attributes = VALID | {
        "is_causal": int(masking.causal),
        "queries_at_end": int(masking.queries_at_end),
        "left_window": masking.left_window,
        "right_window": masking.right_window,
    }
    if masking.kv_length is not None:
        inputs["kv_length"] = np.array(masking.kv_length, np.int64)
    (output,) = run(one_node(inputs, attributes), inputs)
    assert nmse(output, expected) <= 5e-4
    assert nmse(output, definition) <= 1e-6


def test_neutral_length_changes_no_bit() -> None:
    inputs = qkv(2, 9, 70)
    lengths = {"kv_length": np.array([2**63 - 1])}
    (plain,) = run(one_node(inputs), inputs)
    (output,) = run(one_node(inputs | lengths), inputs | lengths)
    np.testing.assert_array_equal(output, plain)


def test_keys_out_of_reach_may_hold_anything() -> None:
    inputs = qkv(1, 40, 150) | {"kv_length": np.array([100])}
    attributes = VALID | {"is_causal": 1, "left_window": 10, "queries_at_end": 1}
    model = one_node(inputs, attributes)
    (clean,) = run(model, inputs)
    for name in ("key", "value"):
        inputs[name][:, :, 100:] = np.nan
        inputs[name][:, :, :50] = 1e30
    (output,) = run(model, inputs)
    np.testing.assert_array_equal(output, clean)
