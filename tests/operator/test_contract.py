"""The operator in ONNX Runtime against float64 attention and against the numpy definition of int8 attention."""

from typing import Any

import numpy as np
import pytest

from qfa_passes.quant.attention import Masking, attention_float64, attention_int8
from tests.operator.sessions import LEVELS, VALID, one_node, open_session, qkv, run
from tests.reference.attention_cases import nmse

FLOAT_BOUND = 5e-4
DEFINITION_BOUND = 1e-6

SHAPES = [
    # B, S, T, D, H, Hkv
    (1, 1, 1, 8, 1, 1),
    (2, 5, 7, 16, 4, 2),
    (1, 1, 129, 64, 9, 3),
    (1, 65, 65, 64, 6, 6),
    (3, 17, 33, 40, 4, 1),
    (1, 64, 200, 128, 2, 1),
    (1, 3, 70, 256, 2, 2),
    (1, 31, 66, 57, 2, 1),
]


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_float32(shape: tuple[int, ...], causal: int) -> None:
    batch, queries, keys, channels, heads, kv_heads = shape
    inputs = qkv(batch, queries, keys, channels, heads=heads, kv_heads=kv_heads)
    scale = channels**-0.5
    attributes = VALID | {
        "num_heads": heads,
        "kv_num_heads": kv_heads,
        "scale": scale,
        "is_causal": causal,
    }
    (output,) = run(one_node(inputs, attributes), inputs)
    arrays = inputs.values()
    masking = Masking(causal=bool(causal))
    assert nmse(output, attention_float64(*arrays, scale=scale, masking=masking)) <= FLOAT_BOUND
    definition = attention_int8(*arrays, scale=scale, masking=masking)
    assert nmse(output, definition) <= DEFINITION_BOUND


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_types_and_levels(dtype: type[np.generic], level: Any) -> None:
    inputs = qkv(2, 9, 9, dtype=dtype)
    session = open_session(one_node(inputs), level=level)
    (output,) = session.run(None, inputs)
    assert output.dtype == dtype
    expected = attention_float64(*inputs.values(), scale=0.25)
    assert nmse(output, expected) <= FLOAT_BOUND


@pytest.mark.parametrize("bias_dtype", [np.float32, np.float16])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", [(2, 4, 5, 7), (4, 1, 7), (5, 7), (1, 1, 5, 1), (7,)])
def test_bias_broadcasts_and_mixes_types(
    shape: tuple[int, ...], dtype: type[np.generic], bias_dtype: type[np.generic]
) -> None:
    bias = np.random.default_rng(1).standard_normal(shape).astype(bias_dtype)
    inputs = qkv(2, dtype=dtype)
    (output,) = run(one_node(inputs | {"attn_bias": bias}), inputs | {"attn_bias": bias})
    expected = attention_float64(*inputs.values(), scale=0.25, masking=Masking(bias=bias))
    assert nmse(output, expected) <= FLOAT_BOUND


@pytest.mark.parametrize("shape", [(2, 4, 5, 7), (2, 1, 1, 7), (1, 4, 5, 1), (5, 7), (7,)])
def test_mask_broadcasts(shape: tuple[int, ...]) -> None:
    mask = np.random.default_rng(2).random(shape) > 0.4
    inputs = qkv(2)
    (output,) = run(one_node(inputs | {"attn_mask": mask}), inputs | {"attn_mask": mask})
    expected = attention_float64(*inputs.values(), scale=0.25, masking=Masking(mask=mask))
    assert nmse(output, expected) <= FLOAT_BOUND


def test_all_masked_gives_zeros() -> None:
    inputs = qkv() | {"attn_mask": np.array(False)}
    (output,) = run(one_node(inputs), inputs)
    np.testing.assert_array_equal(output, np.zeros_like(output))


@pytest.mark.parametrize("sizes", [(0, 5, 5), (2, 0, 5), (2, 5, 0)])
def test_empty_extents(sizes: tuple[int, int, int]) -> None:
    inputs = qkv(*sizes)
    (output,) = run(one_node(inputs), inputs)
    assert output.shape == inputs["query"].shape
    np.testing.assert_array_equal(output, np.zeros_like(output))


def test_value_may_have_its_own_channels() -> None:
    inputs = qkv()
    inputs["value"] = inputs["value"][..., :9].copy()
    (output,) = run(one_node(inputs), inputs)
    assert nmse(output, attention_float64(*inputs.values(), scale=0.25)) <= FLOAT_BOUND


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("per_head", [True, False])
def test_static_scales(per_head: bool, constant: bool) -> None:
    inputs = qkv(2, 9, 70)
    scales = {}
    for name, heads in (("query", 4), ("key", 2), ("value", 2)):
        peak = np.abs(inputs[name]).max(axis=(0, 2, 3)) if per_head else np.abs(inputs[name]).max()
        scales[f"{name[0]}_scale"] = np.asarray(peak / 127, np.float32)
        assert scales[f"{name[0]}_scale"].shape == ((heads,) if per_head else ())
    model = one_node(
        inputs | scales,
        VALID | {"scale_mode": "static"},
        constant=tuple(scales) if constant else (),
    )
    (output,) = run(model, inputs if constant else inputs | scales)
    expected = attention_float64(*inputs.values(), scale=0.25)
    assert nmse(output, expected) <= 2 * FLOAT_BOUND


def test_key_mean_and_rotation_change_nothing_but_rounding() -> None:
    inputs = qkv(2, 9, 70)
    inputs["key"] += np.float32(3)  # softmax does not see it, the quantizer does
    inputs["k_mean"] = inputs["key"].mean(axis=(0, 2))
    (output,) = run(one_node(inputs, VALID | {"rotate": "hadamard"}), inputs)
    arrays = [inputs[name] for name in ("query", "key", "value")]
    assert nmse(output, attention_float64(*arrays, scale=0.25)) <= FLOAT_BOUND


def test_output_shape_is_inferred() -> None:
    inputs = qkv()
    model = one_node(inputs)
    for value, dims in zip(
        model.graph.input, [("B", 4, "S", 16), ("B", 2, "T", 16), ("B", 2, "T", 24)], strict=True
    ):
        for dim in dims:
            entry = value.type.tensor_type.shape.dim.add()
            if isinstance(dim, str):
                entry.dim_param = dim
            else:
                entry.dim_value = dim
    assert open_session(model).get_outputs()[0].shape == ["B", 4, "S", 24]
