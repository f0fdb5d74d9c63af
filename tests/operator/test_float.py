"""Attention in float32: float64 attention but for rounding, with everything that the operator knows."""

from typing import Any

import numpy as np
import pytest

from qfa_passes.quant.attention import attention_float64
from qfa_passes.quant.masking import Masking
from tests.operator.sessions import LEVELS, VALID, Array, one_node, open_session, qkv, run
from tests.reference.attention_cases import nmse

FLOAT = VALID | {"compute_format": "float"}
BOUND = 1e-11


@pytest.mark.parametrize(
    ("dtype", "bound"), [(np.float32, BOUND), (np.float16, 2e-7)], ids=["float32", "float16"]
)
@pytest.mark.parametrize("level", LEVELS)
def test_types_and_levels(dtype: type[np.generic], bound: float, level: Any) -> None:
    inputs = qkv(2, 37, 150, dtype=dtype)
    (output,) = open_session(one_node(inputs, FLOAT), level=level).run(None, inputs)
    assert output.dtype == dtype
    assert nmse(output, attention_float64(*inputs.values(), scale=0.25)) <= bound


@pytest.mark.parametrize(
    "case",
    [
        {"causal": True},
        {"causal": True, "queries_at_end": True, "kv_length": [90, 40]},
        {"left_window": 20, "right_window": 3},
        {"causal": True, "left_window": 70, "queries_at_end": True},
    ],
    ids=repr,
)
@pytest.mark.parametrize("softcap", [0.0, 2.0])
@pytest.mark.parametrize("sink", [None, [0.5, -np.inf, 9.0, -4.0]])
def test_features_together(case: dict[str, Any], softcap: float, sink: list[float] | None) -> None:
    rng = np.random.default_rng(7)
    inputs = qkv(2, 37, 150)
    arrays = tuple(inputs.values())
    mask = rng.random((2, 1, 37, 150)) > 0.2
    bias = rng.standard_normal((4, 37, 150)).astype(np.float32)
    bias[..., 17] = -3.4028235e38
    masking = Masking(mask=mask, bias=bias, **case)
    sinks = None if sink is None else np.array(sink, np.float32)
    expected = attention_float64(*arrays, scale=0.25, masking=masking, softcap=softcap, sink=sinks)
    inputs |= {"attn_mask": mask, "attn_bias": bias}
    if sinks is not None:
        inputs["sink"] = sinks
    if masking.kv_length is not None:
        inputs["kv_length"] = np.array(masking.kv_length, np.int64)
    attributes = FLOAT | {
        "is_causal": int(masking.causal),
        "queries_at_end": int(masking.queries_at_end),
        "left_window": masking.left_window,
        "right_window": masking.right_window,
        "softcap": softcap,
    }
    (output,) = run(one_node(inputs, attributes), inputs)
    assert nmse(output, expected) <= BOUND


def test_hidden_keys_may_hold_anything_and_seen_ones_spoil_their_rows() -> None:
    inputs = qkv(1, 70, 70)
    model = one_node(inputs, FLOAT | {"is_causal": 1})
    (clean,) = run(model, inputs)
    for poison in (np.nan, np.inf, 1e30):
        spoiled = {name: x.copy() for name, x in inputs.items()}
        for name in ("key", "value"):
            spoiled[name][:, :, 50:] = poison
        (output,) = run(model, spoiled)
        np.testing.assert_array_equal(output[:, :, :50], clean[:, :, :50])
        assert np.isfinite(poison) or np.isnan(output[:, :, 50:]).all()


def test_rotation_and_mean_have_no_effect() -> None:
    inputs: dict[str, Array] = qkv(1, 5, 70)
    (plain,) = run(one_node(inputs, FLOAT), inputs)
    more = inputs | {"k_mean": np.ones((2, 16), np.float32)}
    (output,) = run(one_node(more, FLOAT | {"rotate": "hadamard"}), more)
    np.testing.assert_array_equal(output, plain)


def test_same_bits_for_any_number_of_threads() -> None:
    inputs = qkv(2, 150, 150)
    (expected,) = run(one_node(inputs, FLOAT), inputs)
    for threads in (2, 3):
        (output,) = run(one_node(inputs, FLOAT), inputs, threads=threads)
        np.testing.assert_array_equal(output, expected)
