"""Inputs that change nothing give the very bits of the node without them."""

import numpy as np
import pytest

from tests.operator.sessions import VALID, Array, one_node, qkv, run

NEUTRAL = {
    "mask ()": {"attn_mask": np.array(True)},
    "mask (1,)": {"attn_mask": np.array([True])},
    "mask (1, 1, 1, 1)": {"attn_mask": np.ones((1, 1, 1, 1), bool)},
    "bias ()": {"attn_bias": np.array(0, np.float32)},
    "bias float16": {"attn_bias": np.array([0], np.float16)},
    "bias -0": {"attn_bias": np.array(-0.0, np.float32)},
    "mean ()": {"k_mean": np.array(0, np.float32)},
    "mean (1, 1)": {"k_mean": np.zeros((1, 1), np.float32)},
    "scales": {f"{name}_scale": np.array(1, np.float32) for name in "qkv"},
}
NEUTRAL["all"] = {name: array for group in list(NEUTRAL.values()) for name, array in group.items()}


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("extra", NEUTRAL.values(), ids=NEUTRAL.keys())
def test_same_bits(extra: dict[str, Array], constant: bool) -> None:
    inputs = qkv(2, 9, 70)
    attributes = VALID | {"is_causal": 1}
    (plain,) = run(one_node(inputs, attributes), inputs)
    model = one_node(inputs | extra, attributes, constant=tuple(extra) if constant else ())
    (output,) = run(model, inputs if constant else inputs | extra)
    np.testing.assert_array_equal(output, plain)


def test_scales_are_ignored_in_dynamic_mode_whatever_they_hold() -> None:
    inputs = qkv()
    (plain,) = run(one_node(inputs), inputs)
    junk = {"q_scale": np.array([np.nan, 0, -1], np.float32)}
    (output,) = run(one_node(inputs | junk), inputs | junk)
    np.testing.assert_array_equal(output, plain)
