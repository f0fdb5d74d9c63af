"""The definition of the operator against independent attention and its own contract."""

from itertools import product

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

from qfa_passes.quant.attention import (
    Masking,
    Quantization,
    attention_float64,
    attention_int8,
)
from tests.reference.attention_cases import nmse, unit_normal

BOUND = 5e-4
SHAPES = [
    (1, 1, 1, 1, 1, 8, 8),
    (2, 4, 2, 7, 7, 64, 64),
    (1, 3, 1, 17, 65, 40, 24),
    (1, 2, 2, 1, 239, 80, 80),
    (1, 2, 1, 65, 64, 17, 9),
    (1, 1, 1, 16, 128, 256, 256),
    (1, 2, 1, 64, 1024, 64, 64),
]


def onnx_attention(
    arrays: tuple[npt.NDArray[np.float64], ...],
    scale: float,
    causal: bool,
    mask: npt.NDArray[np.generic] | None,
) -> npt.NDArray[np.float64]:
    """Runs ONNX's own reference implementation of its Attention operator."""
    names = ["q", "k", "v", *(["mask"] if mask is not None else [])]
    feeds = dict(zip(names, [*arrays, mask], strict=False))
    node = helper.make_node(
        "Attention",
        names,
        ["y"],
        scale=scale,
        is_causal=int(causal),
        softmax_precision=onnx.TensorProto.DOUBLE,
    )
    values = {
        name: helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for name, x in feeds.items()
    }
    y = helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, None)
    graph = helper.make_graph([node], "attention", list(values.values()), [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
    (result,) = ReferenceEvaluator(model).run(None, feeds)
    assert isinstance(result, np.ndarray)
    return result


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["none", "mask", "bias"])
def test_float64_agrees_with_the_onnx_operator(
    shape: tuple[int, int, int, int, int, int, int], causal: bool, kind: str
) -> None:
    q, k, v = (x.astype(np.float64) for x in unit_normal(shape))
    rng = np.random.default_rng(1)
    score_shape = (shape[3], shape[4])
    mask = rng.random(score_shape) < 0.7
    mask[:, 0] = True
    bias = rng.standard_normal(score_shape)
    masking = Masking(
        causal=causal, mask=mask if kind == "mask" else None, bias=bias if kind == "bias" else None
    )
    expected = onnx_attention(
        (q, k, v), 0.25, causal, {"none": None, "mask": mask, "bias": bias}[kind]
    )
    np.testing.assert_allclose(
        attention_float64(q, k, v, scale=0.25, masking=masking), expected, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("causal", "rotate"), list(product([False, True], repeat=2)))
def test_int8_is_within_the_bound_on_unit_normal_data(
    shape: tuple[int, int, int, int, int, int, int], causal: bool, rotate: bool
) -> None:
    if rotate and shape[5] % 8:
        rotate = False  # such a channel count cannot be rotated; the plain form is checked twice
    q, k, v = unit_normal(shape)
    masking, scale = Masking(causal=causal), shape[5] ** -0.5
    actual = attention_int8(
        q, k, v, scale=scale, masking=masking, quantization=Quantization(rotate=rotate)
    )
    assert actual.dtype == np.float32
    assert nmse(actual, attention_float64(q, k, v, scale=scale, masking=masking)) <= BOUND


def test_static_scales_are_within_the_bound() -> None:
    q, k, v = unit_normal((1, 4, 2, 33, 130, 64, 64))
    per_head = np.abs(k).max(axis=(0, 2, 3)) / 127
    static = Quantization(
        q_scale=np.abs(q).max() / 127, k_scale=per_head, v_scale=np.abs(v).max(axis=(0, 2, 3)) / 127
    )
    actual = attention_int8(q, k, v, scale=0.125, quantization=static)
    assert nmse(actual, attention_float64(q, k, v, scale=0.125)) <= BOUND


def test_k_mean_takes_a_common_shift_out_of_the_keys() -> None:
    q, k, v = unit_normal((1, 2, 1, 9, 70, 32, 32))
    shift = np.random.default_rng(5).standard_normal((1, 32)).astype(np.float32) * 50
    exact = attention_float64(q, k, v, scale=0.2)
    shifted = k + shift[:, None]
    assert nmse(attention_int8(q, shifted, v, scale=0.2), exact) > 10 * BOUND
    with_mean = Quantization(k_mean=shift)
    assert nmse(attention_int8(q, shifted, v, scale=0.2, quantization=with_mean), exact) <= BOUND


def test_rotation_tames_an_outlier_channel() -> None:
    q, k, v = unit_normal((1, 2, 1, 33, 130, 64, 64))
    k[..., 3] *= 40
    q[..., 3] /= 40
    exact = attention_float64(q, k, v, scale=0.125)
    errors = [
        nmse(attention_int8(q, k, v, scale=0.125, quantization=Quantization(rotate=rotate)), exact)
        for rotate in (False, True)
    ]
    assert errors[1] < errors[0] / 4


@given(st.integers(0, 129), st.sampled_from([1e30, -1e30, np.nan, np.inf]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_later_keys_never_change_a_causal_row(row: int, poison: float, rotate: bool) -> None:
    q, k, v = unit_normal((1, 2, 1, 130, 130, 16, 8))
    how = Quantization(rotate=rotate)
    before = attention_int8(q, k, v, scale=0.25, masking=Masking(causal=True), quantization=how)
    k[:, :, row + 1 :], v[:, :, row + 1 :] = poison, poison
    after = attention_int8(q, k, v, scale=0.25, masking=Masking(causal=True), quantization=how)
    np.testing.assert_array_equal(before[:, :, : row + 1], after[:, :, : row + 1])


@given(st.integers(1, 70), st.sampled_from([0.0, 1e30, np.nan]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_masked_padding_is_the_same_as_no_keys(padding: int, poison: float, as_bias: bool) -> None:
    q, k, v = unit_normal((1, 2, 1, 5, 67, 16, 8))
    expected = attention_int8(q, k, v, scale=0.25)
    filler = np.full((1, 1, padding, 16), poison, np.float32)
    mask = np.arange(67 + padding) < 67
    bias = np.where(mask, 0, -np.inf)
    masking = Masking(bias=bias) if as_bias else Masking(mask=mask)
    longer = (np.concatenate((k, filler), axis=2), np.concatenate((v, filler[..., :8]), axis=2))
    np.testing.assert_array_equal(attention_int8(q, *longer, scale=0.25, masking=masking), expected)
    exact = attention_float64(q, *longer, scale=0.25, masking=masking)
    np.testing.assert_allclose(exact, attention_float64(q, k, v, scale=0.25), rtol=1e-12)


def test_nan_in_a_query_row_stays_there() -> None:
    q, k, v = unit_normal((1, 2, 1, 6, 70, 16, 8))
    expected = attention_int8(q, k, v, scale=0.25)
    q[0, 1, 2, 3] = np.nan
    actual = attention_int8(q, k, v, scale=0.25)
    assert np.isnan(actual[0, 1, 2]).all()
    actual[0, 1, 2] = expected[0, 1, 2]
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("which", [1, 2])
def test_nan_in_a_visible_key_or_value_shows(which: int) -> None:
    arrays = unit_normal((1, 2, 1, 4, 4, 16, 8))
    arrays[which][0, 0, 2, 1] = np.nan
    for function in (attention_int8, attention_float64):
        spoiled = np.isnan(function(*arrays, scale=0.25, masking=Masking(causal=True)))
        np.testing.assert_array_equal(spoiled.all(axis=(0, 1, 3)), [False, False, True, True])
        assert not spoiled[:, :, :2].any()


def test_rows_that_see_nothing_are_zero() -> None:
    q, k, v = unit_normal((1, 2, 1, 3, 70, 16, 8))
    mask = np.ones((3, 70), bool)
    mask[1] = False
    for masking in (Masking(mask=mask), Masking(bias=np.where(mask, 0, -np.inf))):
        for function in (attention_int8, attention_float64):
            output = function(q, k, v, scale=0.25, masking=masking)
            np.testing.assert_array_equal(output[:, :, 1], 0)
            assert output[:, :, [0, 2]].all()


def test_the_lowest_float_masks_but_does_not_empty_a_row() -> None:
    q, k, v = unit_normal((1, 2, 1, 3, 70, 16, 8))
    mask = np.ones((3, 70), bool)
    mask[0, 40:], mask[1] = False, False
    lowest = Masking(bias=np.where(mask, 0, np.finfo(np.float32).min))
    output = attention_int8(q, k, v, scale=0.25, masking=lowest)
    expected = attention_int8(q, k, v, scale=0.25, masking=Masking(mask=mask))
    np.testing.assert_array_equal(output[:, :, [0, 2]], expected[:, :, [0, 2]])
    # The row that sees nothing else is what float attention makes of it: the mean of V.
    exact = attention_float64(q, k, v, scale=0.25, masking=lowest)
    np.testing.assert_allclose(
        exact[:, :, 1], v.repeat(2, axis=1).mean(axis=2, dtype=np.float64), rtol=1e-6
    )
    assert nmse(output[:, :, 1], exact[:, :, 1]) <= BOUND


def test_zero_rows_of_v_take_no_precision_from_small_ones() -> None:
    q, k, v = unit_normal((1, 2, 1, 8, 70, 16, 8))
    v *= 1e-3
    v[:, :, ::7] = 0
    assert (
        nmse(attention_int8(q, k, v, scale=0.25), attention_float64(q, k, v, scale=0.25)) <= BOUND
    )


@pytest.mark.parametrize(("rows", "keys"), [(0, 5), (5, 0), (0, 0)])
def test_empty_sequences(rows: int, keys: int) -> None:
    q, k, v = unit_normal((2, 2, 1, rows, keys, 16, 8))
    for function in (attention_int8, attention_float64):
        output = function(q, k, v, scale=0.25, masking=Masking(causal=True))
        np.testing.assert_array_equal(output, np.zeros((2, 2, rows, 8)))


def test_weights_sum_to_one() -> None:
    q, k, v = unit_normal((1, 2, 1, 8, 300, 64, 8))
    output = attention_int8(q, k, np.ones_like(v), scale=0.125)
    np.testing.assert_allclose(output, 1, atol=4e-3)


def test_heads_of_a_group_share_their_keys() -> None:
    q, k, v = unit_normal((2, 6, 2, 5, 9, 16, 8))
    together = attention_int8(q, k, v, scale=0.25)
    for head in range(6):
        kv = head // 3
        alone = attention_int8(q[:, [head]], k[:, [kv]], v[:, [kv]], scale=0.25)
        np.testing.assert_array_equal(together[:, [head]], alone)
