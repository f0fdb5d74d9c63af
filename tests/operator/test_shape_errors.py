"""Shapes that do not fit are refused at run time with both shapes."""

import numpy as np
import pytest

from tests.operator.sessions import Array, one_node, open_session, qkv

Shape = tuple[int, ...]


@pytest.mark.parametrize(
    ("shapes", "parts"),
    [
        ({"query": (1, 3, 5, 16)}, ["(1, 3, 5, 16)", "H = 4"]),
        ({"key": (1, 4, 7, 16)}, ["(1, 4, 7, 16)", "Hkv = 2"]),
        ({"value": (1, 1, 7, 16)}, ["(1, 1, 7, 16)", "Hkv = 2"]),
        ({"key": (1, 2, 7, 8)}, ["(1, 4, 5, 16)", "(1, 2, 7, 8)", "channels D"]),
        ({"value": (1, 2, 6, 16)}, ["(1, 2, 7, 16)", "(1, 2, 6, 16)", "length T"]),
        ({"key": (3, 2, 7, 16)}, ["(1, 4, 5, 16)", "(3, 2, 7, 16)", "batch B"]),
        ({"query": (5, 16)}, ["query (B, H, S, D) or (B, S, H * D) = (5, 16)", "rank 3 or 4"]),
        (
            {"query": (1, 5, 63)},
            ["query (B, S, H * D) = (1, 5, 63)", "multiple of num_heads, H = 4"],
        ),
        ({"query": (1, 5, 32)}, ["(1, 5, 32)", "(1, 2, 7, 16)", "channels D"]),
        ({"key": (1, 6, 32)}, ["(1, 6, 32)", "(1, 2, 7, 16)", "length T"]),
        ({"sink": (3,)}, ["sink (H) = (3)", "H = 4", "(1, 4, 5, 16)"]),
        ({"sink": (1, 4)}, ["sink (H) = (1, 4)", "H = 4"]),
        ({"kv_length": (2,)}, ["kv_length (B) = (2)", "B = 1", "(1, 4, 5, 16)"]),
        (
            {"past_key": (1, 2, 3, 8), "past_value": (1, 2, 3, 16)},
            ["(1, 2, 3, 8)", "(1, 2, 7, 16)"],
        ),
        ({"past_key": (1, 2, 3, 16), "past_value": (1, 2, 4, 16)}, ["(1, 2, 4, 16)", "length P"]),
        ({"past_key": (1, 3, 16), "past_value": (1, 3, 16)}, ["(1, 3, 16)", "(1, 2, 7, 16)"]),
        ({"query": (1,) * 9}, ["rank 9"]),
        ({"attn_mask": (1, 1, 1, 4)}, ["attn_mask", "(1, 1, 1, 4)", "(1, 4, 5, 7)"]),
        ({"attn_mask": (1, 1, 1, 1, 7)}, ["(1, 1, 1, 1, 7)", "(1, 4, 5, 7)"]),
        ({"attn_bias": (4, 7, 5)}, ["attn_bias", "(4, 7, 5)", "(1, 4, 5, 7)"]),
        ({"k_mean": (4, 16)}, ["k_mean (Hkv, D) = (4, 16)", "(1, 2, 7, 16)"]),
    ],
)
def test_shapes(shapes: dict[str, Shape], parts: list[str]) -> None:
    inputs: dict[str, Array] = qkv()
    for name, shape in shapes.items():
        types = {"attn_mask": np.bool_, "kv_length": np.int64}
        inputs[name] = np.ones(shape, types.get(name, np.float32))
    session = open_session(one_node(inputs))
    with pytest.raises(Exception, match="node 'attention_7'") as caught:
        session.run(None, inputs)
    for part in parts:
        assert part in str(caught.value)


def test_a_session_survives_a_refusal() -> None:
    inputs = qkv()
    session = open_session(one_node(inputs))
    (before,) = session.run(None, inputs)
    with pytest.raises(Exception, match="batch B"):
        session.run(None, inputs | {"key": inputs["key"].repeat(2, axis=0)})
    np.testing.assert_array_equal(session.run(None, inputs)[0], before)


def test_rotation_refuses_odd_channels_with_the_node() -> None:
    inputs = qkv(channels=9)
    attributes = {"num_heads": 4, "kv_num_heads": 2, "scale": 1.0, "rotate": "hadamard"}
    session = open_session(one_node(inputs, attributes))
    with pytest.raises(Exception, match=r"node 'attention_7'.*9"):
        session.run(None, inputs)
