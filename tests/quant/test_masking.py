"""Positions, windows, lengths, softcap and sinks: the definition against ONNX's operator and torch."""

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator

from qfa_passes.quant.attention import Masking, attention_float64, attention_int8
from tests.reference.attention_cases import nmse, unit_normal

BOUND = 5e-4
Array = npt.NDArray[Any]


def onnx_attention(opset: int, inputs: dict[str, Array], **attributes: Any) -> Array:
    """Runs ONNX's own reference implementation of its Attention operator in float64."""
    slots = ("q", "k", "v", "mask", "past_key", "past_value", "lengths")
    names = [name if name in inputs else "" for name in slots]
    while not names[-1]:
        names.pop()
    double = onnx.TensorProto.DOUBLE
    node = helper.make_node("Attention", names, ["y"], softmax_precision=double, **attributes)
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for name, x in inputs.items()
    ]
    output = helper.make_tensor_value_info("y", double, None)
    graph = helper.make_graph([node], "attention", values, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    (result,) = ReferenceEvaluator(model).run(None, inputs)
    return np.asarray(result)


def doubles(*shape: int) -> tuple[Array, Array, Array]:
    """Q, K and V of (B, H, Hkv, S, T, D, Dv) in float64."""
    batch, heads, kv_heads, rows, keys, channels, v_channels = shape
    arrays = unit_normal((batch, heads, kv_heads, rows, keys, channels, v_channels))
    query, key, value = (x.astype(np.float64) for x in arrays)
    return query, key, value


def check(expected: Array, q: Array, k: Array, v: Array, **request: Any) -> None:
    """Holds both definitions against an oracle."""
    exact = attention_float64(q, k, v, scale=0.25, **request)
    np.testing.assert_allclose(exact, expected, rtol=1e-9, atol=1e-9)
    assert nmse(attention_int8(q, k, v, scale=0.25, **request), expected) <= BOUND


@pytest.mark.parametrize("softcap", [0.5, 3.0, 50.0])
@pytest.mark.parametrize("causal", [False, True])
def test_softcap_is_that_of_the_onnx_operator(softcap: float, causal: bool) -> None:
    q, k, v = doubles(2, 4, 2, 7, 70, 32, 16)
    bias = np.random.default_rng(1).standard_normal((7, 70))
    expected = onnx_attention(
        23, {"q": q, "k": k, "v": v, "mask": bias}, scale=0.25, softcap=softcap, is_causal=causal
    )
    check(expected, q, k, v, masking=Masking(causal=causal, bias=bias), softcap=softcap)


@pytest.mark.parametrize(("left", "right"), list(product([-1, 0, 3, 200], repeat=2)))
@pytest.mark.parametrize("causal", [False, True])
def test_windows_are_those_of_the_onnx_operator(left: int, right: int, causal: bool) -> None:
    q, k, v = doubles(1, 2, 1, 70, 9, 16, 8)  # rows beyond the last key may see nothing
    expected = onnx_attention(
        25,
        {"q": q, "k": k, "v": v},
        scale=0.25,
        is_causal=int(causal),
        left_window_size=left,
        right_window_size=right,
    )
    masking = Masking(causal=causal, left_window=left, right_window=right)
    check(expected, q, k, v, masking=masking)


@pytest.mark.parametrize("windows", [(-1, -1), (2, -1), (2, 3)])
def test_queries_at_the_end_of_a_cache(windows: tuple[int, int]) -> None:
    q, k, v = doubles(2, 4, 2, 5, 70, 16, 8)
    new = {"k": k[:, :, 65:], "v": v[:, :, 65:]}
    past = {"past_key": k[:, :, :65], "past_value": v[:, :, :65]}
    expected = onnx_attention(
        25,
        {"q": q, **new, **past},
        scale=0.25,
        is_causal=1,
        left_window_size=windows[0],
        right_window_size=windows[1],
    )
    masking = Masking(
        causal=True, queries_at_end=True, left_window=windows[0], right_window=windows[1]
    )
    check(expected, q, k, v, masking=masking)


@pytest.mark.parametrize("lengths", [[70, 3, 1], [0, 66, 5]])
@pytest.mark.parametrize(
    ("causal", "windows"), [(False, (-1, -1)), (True, (-1, -1)), (True, (2, -1)), (False, (2, 1))]
)
def test_lengths_are_those_of_the_onnx_operator(
    lengths: list[int], causal: bool, windows: tuple[int, int]
) -> None:
    q, k, v = doubles(3, 2, 1, 4, 70, 16, 8)
    expected = onnx_attention(
        25,
        {"q": q, "k": k, "v": v, "lengths": np.array(lengths)},
        scale=0.25,
        is_causal=int(causal),
        left_window_size=windows[0],
        right_window_size=windows[1],
    )
    masking = Masking(
        causal=causal,
        queries_at_end=True,  # with lengths, ONNX counts positions from the end
        left_window=windows[0],
        right_window=windows[1],
        kv_length=lengths,
    )
    check(expected, q, k, v, masking=masking)


def test_lengths_are_clamped_to_the_keys() -> None:
    q, k, v = doubles(2, 2, 1, 4, 9, 16, 8)
    largest = np.iinfo(np.int64).max
    for at_end in (False, True):
        plain = Masking(causal=True, queries_at_end=at_end)
        neutral = Masking(causal=True, queries_at_end=at_end, kv_length=[largest])
        for function in (attention_float64, attention_int8):
            np.testing.assert_array_equal(
                function(q, k, v, scale=0.25, masking=neutral),
                function(q, k, v, scale=0.25, masking=plain),
            )
    negative = attention_float64(q, k, v, scale=0.25, masking=Masking(kv_length=[-3, 9]))
    assert not negative[0].any()
    assert negative[1].all()


def test_lengths_without_positions_at_the_end() -> None:
    q, k, v = doubles(2, 2, 1, 4, 9, 16, 8)
    seen = (np.tri(4, 9, dtype=bool) & (np.arange(9) < np.array([[2], [9]]))[:, None])[:, None]
    expected = onnx_attention(23, {"q": q, "k": k, "v": v, "mask": seen}, scale=0.25)
    check(expected, q, k, v, masking=Masking(causal=True, kv_length=[2, 9]))


def torch_with_sink(q: Array, k: Array, v: Array, sink: Array, bias: Array) -> Array:
    """Softmax over the scores and one more column, which is dropped afterwards."""
    query, key, value = (torch.from_numpy(x) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))
    scores = query @ key.transpose(2, 3) * 0.25 + torch.from_numpy(bias)
    column = torch.from_numpy(sink).reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
    weights = torch.softmax(torch.cat([scores, column], dim=-1), dim=-1)[..., :-1]
    return np.asarray((weights @ value).numpy())


@pytest.mark.parametrize("sinks", [[0.0, 1.5, -2.0, 9.0], [-200.0, 300.0, 2.0, 1.0]])
def test_sinks_are_one_more_column_of_the_softmax(sinks: list[float]) -> None:
    q, k, v = doubles(2, 4, 2, 5, 130, 32, 16)
    bias = np.where(np.random.default_rng(2).random((5, 130)) < 0.6, 0, -np.inf)
    expected = torch_with_sink(q, k, v, np.array(sinks), bias)
    check(expected, q, k, v, masking=Masking(bias=bias), sink=sinks)


def test_a_sink_leaves_rows_without_keys_at_zero() -> None:
    q, k, v = doubles(1, 2, 1, 3, 70, 16, 8)
    bias = np.zeros((3, 70), np.float32)
    bias[1], bias[2] = -np.inf, np.finfo(np.float32).min
    for function in (attention_float64, attention_int8):
        output = function(q, k, v, scale=0.25, masking=Masking(bias=bias), sink=[1.0, 2.0])
        np.testing.assert_array_equal(output[:, :, 1:], 0)
        assert output[:, :, 0].all()


def test_a_sink_of_minus_infinity_is_none() -> None:
    q, k, v = doubles(1, 2, 1, 3, 70, 16, 8)
    masking = Masking(bias=np.full(70, np.finfo(np.float32).min))  # rows that average V
    for function in (attention_float64, attention_int8):
        without = function(q, k, v, scale=0.25, masking=masking)
        for sink in ([-np.inf], [-np.inf, -np.inf]):
            np.testing.assert_array_equal(
                function(q, k, v, scale=0.25, masking=masking, sink=sink), without
            )


@pytest.mark.parametrize("function", [attention_float64, attention_int8])
def test_nan_stays_in_its_row_with_softcap_and_sink(function: Any) -> None:
    q, k, v = doubles(1, 2, 1, 4, 4, 16, 8)
    request = {"scale": 0.25, "masking": Masking(causal=True), "softcap": 2.0, "sink": [1.0, 0.0]}
    clean = function(q, k, v, **request)
    k[:, :, 2] = np.nan
    spoiled = function(q, k, v, **request)
    np.testing.assert_array_equal(spoiled[:, :, :2], clean[:, :, :2])
    assert np.isnan(spoiled[:, :, 2:]).all()


@pytest.mark.parametrize("function", [attention_float64, attention_int8])
def test_no_keys_at_all(function: Any) -> None:
    q, k, v = doubles(1, 2, 1, 4, 0, 16, 8)
    masking = Masking(causal=True, queries_at_end=True, kv_length=[0])
    output = function(q, k, v, scale=0.25, masking=masking, sink=[1.0], softcap=2.0)
    np.testing.assert_array_equal(output, np.zeros((1, 2, 4, 8)))
