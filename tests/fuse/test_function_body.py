"""The function body against the definition, in onnx.reference and ONNX Runtime."""

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from qfa_passes.core.formats import Rotation, ScaleMode
from qfa_passes.errors import UnsupportedModelError
from qfa_passes.fuse.body_features import BodyFeatures
from qfa_passes.fuse.function_body import OPSETS, function_body
from tests.reference.attention_cases import nmse
from tests.reference.attention_models import Site, build_model
from tests.reference.body_cases import (
    LEVELS,
    defined,
    exact,
    qkv,
    run_ort,
    run_reference,
    skip_if_unknown,
)

Array = npt.NDArray[Any]

KERNEL_BOUND = 1e-4
FLOAT_BOUND = 5e-4


def check(sites: list[Site], outputs: list[Array]) -> None:
    """Holds outputs against the definition and against exact attention."""
    for site, output in zip(sites, outputs, strict=True):
        assert output.dtype == site.inputs["query"].dtype
        assert nmse(output, defined(site)) <= KERNEL_BOUND
        assert nmse(output, exact(site)) <= FLOAT_BOUND


rng = np.random.default_rng(7)
HADAMARD = {"rotate": "hadamard"}
STATIC = {"scale_mode": "static"}
MODELS = {
    "one causal site": [Site(qkv(1, 2, 2, 19, 19, 64, 64), 0.125, True)],
    "sites that differ in every attribute and input": [
        Site(qkv(2, 4, 2, 7, 33, 17, 9), 0.25, True),
        Site(qkv(1, 3, 3, 1, 65, 64, 64, attn_mask=rng.random((1, 1, 1, 65)) < 0.7), 0.125),
        Site(
            qkv(1, 6, 1, 5, 5, 32, 32)
            | {
                "attn_bias": np.where(rng.random((5, 5)) < 0.3, -np.inf, 0.5).astype(np.float32),
                "k_mean": rng.standard_normal((1, 32)).astype(np.float32),
            },
            0.2,
        ),
    ],
    "decoding with grouped heads": [Site(qkv(2, 8, 2, 1, 130, 64, 64), 0.125)],
    "float16": [
        Site(
            qkv(1, 4, 2, 7, 33, 40, 9, dtype=np.float16)
            | {"attn_bias": rng.standard_normal((1, 4, 7, 33)).astype(np.float16)},
            0.25,
            True,
        )
    ],
    "rotated": [Site(qkv(1, 4, 2, 7, 33, 40, 9), 0.25, True, HADAMARD)],
    "rotated with key means": [
        Site(
            qkv(1, 4, 2, 7, 33, 40, 9, k_mean=rng.standard_normal((2, 40)).astype(np.float32)),
            0.15,
            False,
            HADAMARD,
        )
    ],
    "static scales": [
        Site(
            qkv(1, 4, 2, 7, 33, 40, 9)
            | {
                "q_scale": np.full(4, 0.03, np.float32),
                "k_scale": np.array([0.03, 0.04], np.float32),
                "v_scale": np.array(0.03, np.float32),
            },
            0.15,
            True,
            STATIC,
        )
    ],
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("opset", [15, 17, 18, 20, 21, 23, 25])
def test_reference_agrees(name: str, opset: int) -> None:
    model, feeds = build_model(MODELS[name], opset)
    onnx.checker.check_model(model, full_check=True)
    check(MODELS[name], run_reference(model, feeds))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("opset", "level"), list(product([17, 18, 23], LEVELS)))
def test_onnxruntime_agrees(name: str, opset: int, level: Any) -> None:
    model, feeds = build_model(MODELS[name], opset)
    check(MODELS[name], run_ort(model, feeds, level))


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_loads_and_agrees(opset: int) -> None:
    skip_if_unknown(opset)
    sites = MODELS["sites that differ in every attribute and input"]
    model, feeds = build_model(sites, opset)
    onnx.checker.check_model(model, full_check=True)
    check(sites, run_ort(model, feeds))


@pytest.mark.parametrize(
    "shape",
    [(1, 4, 2, 0, 5, 16, 8), (1, 4, 2, 3, 0, 16, 8), (0, 4, 2, 3, 5, 16, 8), (1, 1, 1, 1, 1, 1, 1)],
)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("run", [run_ort, run_reference])
def test_degenerate_extents(shape: tuple[int, ...], causal: bool, run: Any) -> None:
    sites = [Site(qkv(*shape), 0.25, causal)]
    (output,) = run(*build_model(sites, 18))
    np.testing.assert_allclose(output, defined(sites[0]), rtol=1e-2)


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("mode", ["dynamic", "static"])
@pytest.mark.parametrize("run", [run_ort, run_reference])
def test_masked_keys_never_contribute(poison: float, mode: str, run: Any) -> None:
    inputs = qkv(1, 4, 2, 6, 40, 16, 8, attn_mask=np.arange(40) < 31)
    if mode == "static":
        inputs |= {name: np.array(0.03, np.float32) for name in ("q_scale", "k_scale", "v_scale")}
    sites = [Site(inputs, 0.25, False, {"scale_mode": mode})]
    (clean,) = run(*build_model(sites, 18))
    inputs["key"][:, :, 31:], inputs["value"][:, :, 31:] = poison, poison
    (spoiled,) = run(*build_model(sites, 18))
    np.testing.assert_array_equal(spoiled, clean)


@pytest.mark.parametrize("which", ["key", "value"])
@pytest.mark.parametrize("run", [run_ort, run_reference])
def test_nan_in_a_visible_key_shows_in_the_rows_that_see_it(which: str, run: Any) -> None:
    inputs = qkv(1, 2, 1, 4, 4, 16, 8)
    inputs[which][0, 0, 2, 1] = np.nan
    (output,) = run(*build_model([Site(inputs, 0.25, True)], 18))
    np.testing.assert_array_equal(np.isnan(output).all(axis=(0, 1, 3)), [False, False, True, True])
    assert not np.isnan(output[:, :, :2]).any()


@pytest.mark.parametrize("run", [run_ort, run_reference])
def test_nan_in_a_query_row_stays_there(run: Any) -> None:
    inputs = qkv(1, 2, 1, 5, 9, 16, 8)
    (clean,) = run(*build_model([Site(inputs, 0.25)], 18))
    inputs["query"][0, 1, 3, 0] = np.nan
    (output,) = run(*build_model([Site(inputs, 0.25)], 18))
    assert np.isnan(output[0, 1, 3]).all()
    output[0, 1, 3] = clean[0, 1, 3]
    np.testing.assert_array_equal(output, clean)


@pytest.mark.parametrize("run", [run_ort, run_reference])
def test_rows_that_see_nothing_are_zero(run: Any) -> None:
    mask = np.ones((3, 9), bool)
    mask[1] = False
    bias = np.where(mask, 0, -np.inf).astype(np.float32)
    sites = [
        Site(qkv(1, 2, 1, 3, 9, 16, 8, attn_mask=mask), 0.25),
        Site(qkv(1, 2, 1, 3, 9, 16, 8, attn_bias=bias), 0.25),
    ]
    for output in run(*build_model(sites, 18)):
        np.testing.assert_array_equal(output[:, :, 1], 0)
        assert output[:, :, [0, 2]].all()


@pytest.mark.parametrize("run", [run_ort, run_reference])
def test_the_lowest_float_masks_but_does_not_empty_a_row(run: Any) -> None:
    bias = np.zeros((3, 9), np.float32)
    bias[0, 4:], bias[1] = np.finfo(np.float32).min, np.finfo(np.float32).min
    site = Site(qkv(1, 2, 1, 3, 9, 16, 8, attn_bias=bias), 0.25, True)
    (output,) = run(*build_model([site], 18))
    assert nmse(output[:, :, [0, 2]], defined(site)[:, :, [0, 2]]) <= KERNEL_BOUND
    value = site.inputs["value"].astype(np.float64)
    average = np.broadcast_to(value[:, :, :2].mean(axis=2), output[:, :, 1].shape)
    assert nmse(output[:, :, 1], average) <= FLOAT_BOUND
    assert nmse(output[:, :, 1], defined(site)[:, :, 1]) <= KERNEL_BOUND


def test_zero_rows_stay_finite() -> None:
    inputs = qkv(1, 2, 1, 3, 9, 16, 8)
    inputs["query"][0, 0, 1] = 0
    inputs["key"][0, 0, 4] = 0
    inputs["value"][:] = 0
    (output,) = run_ort(*build_model([Site(inputs, 0.25)], 18))
    np.testing.assert_array_equal(output, 0)


def test_no_dequantize_linear_and_no_repeat_of_keys() -> None:
    body = function_body(BodyFeatures(18, frozenset({"attn_mask", "attn_bias", "k_mean"})))
    written = {node.op_type for node in body.node}
    assert not written & {"DequantizeLinear", "QuantizeLinear", "Expand", "Tile"}


def test_a_body_takes_only_inputs_that_some_node_uses() -> None:
    assert BodyFeatures(18).input_names() == ["query", "key", "value"]
    assert BodyFeatures(18, frozenset({"attn_bias"})).input_names()[-1] == "attn_bias"
    assert BodyFeatures(18, scale_mode=ScaleMode.STATIC).input_names()[-1] == "v_scale"


@pytest.mark.parametrize("opset", [14, 27])
def test_opsets_out_of_range_are_refused(opset: int) -> None:
    with pytest.raises(UnsupportedModelError, match=f"opset {opset}"):
        function_body(BodyFeatures(opset))


def test_mixed_modes_are_refused() -> None:
    inputs = qkv(1, 2, 1, 3, 9, 16, 8)
    nodes = [Site(inputs).node(0), Site(inputs, attributes=HADAMARD).node(1)]
    with pytest.raises(UnsupportedModelError, match="hadamard"):
        BodyFeatures.of(nodes, 18)


@pytest.mark.parametrize("channels", [None, 12])
def test_rotation_needs_one_divisible_channel_count(channels: int | None) -> None:
    with pytest.raises(UnsupportedModelError, match="Hadamard"):
        function_body(BodyFeatures(18, rotate=Rotation.HADAMARD, channels=channels))
