"""What is wrong with a cache is told with the node, the tensor and the shapes, as early as it is known."""

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from qfa_passes.quant.cache import KeyValueCache
from tests.operator.caches import (
    attributes_of,
    cache_node,
    codings,
    constants_of,
    past_of,
    present_names,
)
from tests.operator.sessions import VALID, Array, one_node, open_session, qkv

CODINGS = codings(16, 16)


def cache_of(name: str, count: int = 40) -> KeyValueCache:
    key = np.random.default_rng(0).standard_normal((1, 2, count, 16)).astype(np.float32)
    return KeyValueCache.of(CODINGS[name], key, key)


def feeds_of(name: str) -> dict[str, Array]:
    return qkv() | past_of(cache_of(name)) | constants_of(CODINGS[name])


def creation_failure(
    inputs: dict[str, Array], attributes: dict[str, Any], outputs: list[str], name: str
) -> str:
    types = {f"present_{key}": x for key, x in cache_of(name).tensors.items()}
    model = one_node(inputs, attributes, outputs=outputs, output_types=types)
    with pytest.raises(Exception, match="node 'attention_7'") as caught:
        open_session(model)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"kv_format": "int2"}, ['kv_format is "int2"', "float, int8, int4, fp8e4m3, fp8e5m2"]),
        ({"kv_granularity": "head"}, ['kv_granularity is "head"', "token, channel"]),
        ({"kv_update": "move"}, ['kv_update is "move"', "concat, shared"]),
        ({"group_size": 48}, ["group_size is 48", "multiple of 32"]),
        ({"group_size": 0}, ["group_size is 0", "multiple of 32"]),
        (
            {"kv_format": "int8", "compute_format": "float"},
            ['kv_format is "int8"', 'compute_format is "float"'],
        ),
        ({"kv_format": "fp8e4m3"}, ['kv_format is "fp8e4m3"', 'compute_format is "int8"']),
        (
            {"kv_format": "fp8e4m3", "compute_format": "fp8e5m2"},
            ['kv_format is "fp8e4m3"', 'in "float" or "fp8e4m3"'],
        ),
        ({"kv_granularity": "channel"}, ['kv_format is "float"', "only an int8 cache"]),
        (
            {"kv_format": "int4", "kv_granularity": "channel"},
            ['kv_format is "int4"', "only an int8 cache"],
        ),
        (
            {"kv_format": "int8", "kv_granularity": "channel", "scale_mode": "static"},
            ["channel", "static", "dynamic"],
        ),
    ],
)
def test_attributes(change: dict[str, Any], parts: list[str]) -> None:
    text = creation_failure(qkv(), VALID | change, ["output"], "int8")
    for part in parts:
        assert part in text


@pytest.mark.parametrize("name", [name for name in CODINGS if " rotated" not in name])
def test_every_input_of_a_cache_is_needed(name: str) -> None:
    inputs = feeds_of(name)
    for left_out in [key for key in inputs if key.startswith("past_")]:
        rest = {key: x for key, x in inputs.items() if key != left_out}
        text = creation_failure(rest, attributes_of(CODINGS[name]), ["output"], name)
        assert left_out in text
        assert "missing" in text or "only one of" in text


@pytest.mark.parametrize("name", ["int8", "int4", "fp8e5m2"])
def test_a_cache_needs_a_past(name: str) -> None:
    text = creation_failure(qkv(), attributes_of(CODINGS[name]), ["output"], name)
    assert "past_key and past_value are missing" in text
    assert f'kv_format is "{name}"; give them, P = 0' in text


def test_a_shared_cache_needs_buffers_and_lengths() -> None:
    shared = VALID | {"kv_update": "shared"}
    text = creation_failure(qkv(), shared, ["output"], "float")
    assert "past_key and past_value are missing" in text
    assert 'kv_update is "shared"' in text
    text = creation_failure(feeds_of("float"), shared, ["output"], "float")
    assert "kv_length is missing" in text


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("float", {"past_key_scale": np.ones((1, 2, 40), np.float32)}),
        ("int8", {"past_key_zero_point": np.ones((1, 2, 2, 16), np.int8)}),
        ("int8", {"past_key_open": np.ones((1, 2, 32, 16), np.float32)}),
        ("fp8e4m3", {"past_value_zero_point": np.ones((1, 2, 40, 1), np.int8)}),
    ],
)
def test_inputs_of_other_formats(name: str, extra: dict[str, Array]) -> None:
    text = creation_failure(feeds_of(name) | extra, attributes_of(CODINGS[name]), ["output"], name)
    assert f'{next(iter(extra))} is given, but kv_format is "{name}"; leave it out' in text


@pytest.mark.parametrize(
    ("name", "outputs", "parts"),
    [
        ("int8", ["present_key"], ["present_key and present_key_scale", "both or neither"]),
        ("int8", ["", "", "present_key_scale"], ["present_key and present_key_scale"]),
        ("float", ["", "", "present_key_scale"], ["present_key_scale is asked for", "leave it"]),
        ("int8 channel", ["present_key", "", "present_key_scale"], ["scales per channel"]),
        (
            "int4",
            ["present_key", "", "present_key_scale", "", "present_key_zero_point"],
            ["present_key and present_key_open"],
        ),
        ("int4", ["", "present_value"], ["present_value and present_value_scale"]),
    ],
)
def test_outputs(name: str, outputs: list[str], parts: list[str]) -> None:
    inputs, attributes = feeds_of(name), attributes_of(CODINGS[name])
    text = creation_failure(inputs, attributes, ["output", *outputs], name)
    for part in parts:
        assert part in text


@pytest.mark.parametrize(
    ("name", "other", "parts"),
    [
        ("int8", {"past_key": np.uint8, "past_value": np.uint8}, ["past_key", "int8"]),
        ("int8", {"past_value": np.uint8}, ["past_value", "int8"]),
        ("int8", {"past_key": np.float32, "past_value": np.float32}, ["past_key", "int8"]),
        ("int8", {"past_key_scale": np.float16}, ["past_key_scale", "float"]),
        ("int4", {"past_value_scale": np.float32}, ["past_value_scale", "float16"]),
        ("int4", {"past_key_open": np.float16}, ["past_key_open", "of key"]),
        ("fp8e5m2", {"past_key": np.int8, "past_value": np.int8}, ["past_key", "uint8"]),
        ("float", {"past_key": np.int8, "past_value": np.int8}, ["element type of key and value"]),
        ("float", {"past_key": np.float64}, ["past_key", "Cast"]),
    ],
)
def test_types(name: str, other: dict[str, Any], parts: list[str]) -> None:
    inputs = feeds_of(name)
    inputs |= {key: inputs[key].astype(kind) for key, kind in other.items()}
    text = creation_failure(inputs, attributes_of(CODINGS[name]), ["output"], name)
    for part in parts:
        assert part in text


@pytest.mark.parametrize(
    ("name", "shapes", "parts"),
    [
        ("int8", {"past_key": (1, 2, 40, 8)}, ["(1, 2, 40, 8)", "expected (1, 2, 40, 16)"]),
        ("int8", {"past_value": (1, 2, 39, 16)}, ["(1, 2, 40, 16)", "(1, 2, 39, 16)", "length P"]),
        ("int8", {"past_key_scale": (1, 2, 39)}, ["(1, 2, 39)", "expected (1, 2, 40)"]),
        ("int8", {"past_key_scale": (1, 2, 40, 1)}, ["(1, 2, 40, 1)", "expected (1, 2, 40)"]),
        ("int8 channel", {"past_key_scale": (1, 16)}, ["(1, 16)", "expected (2, 16)"]),
        ("int4", {"past_key": (1, 2, 40, 16)}, ["ceil(D / 2)", "expected (1, 2, 40, 8)"]),
        ("int4", {"past_key_scale": (1, 2, 1, 16)}, ["(1, 2, 1, 16)", "expected (1, 2, 2, 16)"]),
        ("int4", {"past_value_scale": (1, 2, 40, 2)}, ["expected (1, 2, 40, 1)"]),
        ("int4", {"past_key_zero_point": (1, 2, 2, 8)}, ["expected (1, 2, 2, 16)"]),
        ("int4", {"past_key_open": (1, 2, 8, 16)}, ["(1, 2, 8, 16)", "expected (1, 2, 32, 16)"]),
        ("fp8e4m3", {"past_value_scale": (1, 2, 41)}, ["(1, 2, 41)", "expected (1, 2, 40)"]),
    ],
)
def test_shapes(name: str, shapes: dict[str, tuple[int, ...]], parts: list[str]) -> None:
    inputs = feeds_of(name)
    session = open_session(cache_node(cache_of(name), inputs))
    inputs |= {key: np.ones(shape, inputs[key].dtype) for key, shape in shapes.items()}
    with pytest.raises(Exception, match="node 'attention_7'") as caught:
        session.run(None, inputs)
    for part in [next(iter(shapes)), f'kv_format "{name.split()[0]}"', *parts]:
        assert part in str(caught.value) or "length P" in parts


@pytest.mark.parametrize("step", [0.0, -1.0, np.nan, np.inf])
def test_steps_per_channel(step: float) -> None:
    inputs = feeds_of("int8 channel")
    session = open_session(cache_node(cache_of("int8 channel"), inputs))
    inputs["past_value_scale"] = inputs["past_value_scale"].copy()
    inputs["past_value_scale"][1, 3] = step
    with pytest.raises(Exception, match=r"node 'attention_7'.*past_value_scale holds .* at 19"):
        session.run(None, inputs)


def test_constant_steps_per_channel() -> None:
    """They are looked at when the session is created."""
    inputs = feeds_of("int8 channel")
    inputs["past_key_scale"] = np.zeros_like(inputs["past_key_scale"])
    attributes = attributes_of(CODINGS["int8 channel"])
    model = one_node(inputs, attributes, constant=("past_key_scale", "past_value_scale"))
    with pytest.raises(Exception, match=r"node 'attention_7'.*past_key_scale holds 0.* at 0"):
        open_session(model)


@pytest.mark.parametrize("moved", ["key", "key_scale"])
def test_a_cache_that_is_in_place_in_part(moved: str) -> None:
    cache = cache_of("int8")
    feeds = qkv(keys=5) | {"kv_length": np.array([20])}
    session = open_session(cache_node(cache, feeds | past_of(cache), kv_update="shared"))
    binding = session.io_binding()
    for name in present_names(cache):
        binding.bind_output(name)
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    buffers = {name: ort.OrtValue.ortvalue_from_numpy(x) for name, x in cache.tensors.items()}
    for name, buffer in buffers.items():
        binding.bind_ortvalue_input(f"past_{name}", buffer)
    binding.bind_ortvalue_output(f"present_{moved}", buffers[moved])
    with pytest.raises(Exception, match=f"present_{moved} is in the buffer of its past.*in place"):
        session.run_with_iobinding(binding)
