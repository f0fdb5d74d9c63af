"""What is wrong with a node is said when the session is created, with the node's name and the way out."""

from typing import Any

import numpy as np
import pytest

from tests.operator.sessions import VALID, Array, one_node, open_session, qkv

STATIC = VALID | {"scale_mode": "static"}


def failure(attributes: dict[str, Any], **more: Any) -> str:
    inputs = qkv() | more.pop("inputs", {})
    with pytest.raises(Exception) as caught:
        open_session(one_node(inputs, attributes, **more))
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"num_heads": 5}, ["num_heads 5", "multiple of kv_num_heads 2"]),
        ({"num_heads": 0}, ["num_heads is 0", "at least 1"]),
        ({"kv_num_heads": -2}, ["kv_num_heads is -2", "at least 1"]),
        ({"scale": float("nan")}, ["scale is nan", "finite"]),
        ({"scale": float("inf")}, ["scale is inf", "finite"]),
        ({"is_causal": 2}, ["is_causal is 2", "0 or 1"]),
        ({"compute_format": "int3"}, ['compute_format is "int3"', "int8"]),
        ({"scale_mode": "eager"}, ['scale_mode is "eager"', "dynamic, static"]),
        ({"rotate": "spin"}, ['rotate is "spin"', "none, hadamard"]),
        ({"schema_version": 4}, ["schema_version is 4", "versions 1 to 3", "install"]),
        ({"schema_version": 0}, ["schema_version is 0"]),
        ({"softcap": -1.0}, ["softcap is -1", "0 is off"]),
        ({"softcap": float("nan")}, ["softcap is nan", "finite"]),
        ({"softcap": 1}, ["softcap", "another type", "float"]),
        ({"queries_at_end": 2}, ["queries_at_end is 2", "0 or 1"]),
        ({"left_window": -2}, ["left_window is -2", "-1 for no limit"]),
        ({"right_window": -7}, ["right_window is -7", "-1 for no limit"]),
        ({"compute_format": "float", "scale_mode": "static"}, ["float", "static", "dynamic"]),
        ({"compute_format": "fp8e5m2", "scale_mode": "static"}, ["fp8e5m2", "static", "dynamic"]),
        ({"num_heads": 4.0}, ["num_heads", "another type", "int"]),
        ({"rotate": 1}, ["rotate", "another type", "string"]),
    ],
)
def test_bad_value(change: dict[str, Any], parts: list[str]) -> None:
    text = failure(VALID | change)
    assert "ai.qfa::QuantFlashAttention node 'attention_7'" in text
    for part in parts:
        assert part in text


@pytest.mark.parametrize("name", ["num_heads", "kv_num_heads", "scale"])
def test_missing(name: str) -> None:
    text = failure({key: value for key, value in VALID.items() if key != name})
    assert f"attribute {name}" in text
    assert "missing" in text


def test_defaults_of_the_others() -> None:
    required = {key: VALID[key] for key in ("num_heads", "kv_num_heads", "scale")}
    inputs = qkv()
    plain = open_session(one_node(inputs)).run(None, inputs)[0]
    output = open_session(one_node(inputs, required)).run(None, inputs)[0]
    np.testing.assert_array_equal(output, plain)


def test_node_without_a_name_is_told_by_its_output() -> None:
    assert "output 'output'" in failure(VALID | {"num_heads": 5}, name="")


def test_static_mode_needs_scales() -> None:
    text = failure(STATIC)
    assert "q_scale" in text
    assert "dynamic" in text


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (np.ones(3, np.float32), "shape (3)"),
        (np.array(-1, np.float32), "-1.0"),
        (np.array(0, np.float32), "above zero"),
        (np.array(np.nan, np.float32), "finite"),
    ],
)
def test_bad_constant_scale(value: Array, part: str) -> None:
    scales = {"q_scale": value, "k_scale": np.float32([1]), "v_scale": np.float32([1])}
    text = failure(STATIC, inputs=scales, constant=tuple(scales))
    assert "q_scale" in text
    assert part in text


def test_bad_scale_at_run() -> None:
    inputs = qkv() | {f"{name}_scale": np.float32([1]) for name in "qkv"}
    session = open_session(one_node(inputs, STATIC))
    inputs["k_scale"] = np.float32([0])
    with pytest.raises(Exception, match=r"k_scale holds 0\.0.*above zero"):
        session.run(None, inputs)


@pytest.mark.parametrize("dtype", [np.float64, np.int32])
def test_element_types(dtype: Any) -> None:
    text = failure(VALID, inputs=qkv(dtype=dtype))
    assert "query" in text
    assert "Cast" in text


def test_a_past_of_another_type() -> None:
    past = qkv(dtype=np.float16)
    inputs = {"past_key": past["key"], "past_value": past["value"]}
    assert "type of key and value" in failure(VALID, inputs=inputs)


def test_half_a_past() -> None:
    assert "only one of past_key" in failure(VALID, inputs={"past_key": qkv()["key"]})


def test_lengths_are_int64() -> None:
    text = failure(VALID, inputs={"kv_length": np.array([3], np.int32)})
    assert "kv_length" in text
    assert "int32" in text


def test_mixed_element_types() -> None:
    text = failure(VALID, inputs={"key": qkv(dtype=np.float16)["key"]})
    assert "one element type" in text


def test_unknown_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QFA_ISA", "mmx")
    text = failure(VALID)
    assert "mmx" in text
    assert "scalar" in text
