"""Softcap, sinks, places, lengths, past keys, layouts and the float format in the function body."""

from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import ModelProto

from qfa_passes.core.formats import AttentionFormat
from qfa_passes.fuse.body_features import BodyFeatures
from qfa_passes.fuse.function_body import OPSETS
from tests.operator.sessions import run
from tests.reference.attention_cases import nmse
from tests.reference.attention_models import Site, build_model, merged
from tests.reference.body_cases import (
    LEVELS,
    defined,
    exact,
    joined,
    qkv,
    run_ort,
    run_reference,
    skip_if_unknown,
)

Array = npt.NDArray[Any]
KERNEL_BOUND = 1e-4
EXACT_BOUNDS = {"int8": 5e-4, "float": 1e-9}
RUNTIMES = [run_ort, run_reference]
rng = np.random.default_rng(3)


def normal(*shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def past(
    shape: tuple[int, ...], length: int, dtype: npt.DTypeLike = np.float32
) -> dict[str, Array]:
    """Past keys and values that go with (B, H, Hkv, S, T, D, Dv)."""
    batch, kv_heads, channels, v_channels = (shape[axis] for axis in (0, 2, 5, 6))
    return {
        "past_key": normal(batch, kv_heads, length, channels).astype(dtype),
        "past_value": normal(batch, kv_heads, length, v_channels).astype(dtype),
    }


def with_format(site: Site, format: str) -> Site:
    return Site(
        site.inputs,
        site.scale,
        site.is_causal,
        {**site.attributes, "compute_format": format},
        site.presents,
        site.flat,
    )


SHAPE = (2, 4, 2, 5, 33, 16, 8)
MODELS = {
    "softcap": [Site(qkv(*SHAPE), 0.5, attributes={"softcap": 3.0})],
    "sinks": [Site(qkv(*SHAPE) | {"sink": normal(4)}, 0.25, True)],
    "windows": [Site(qkv(*SHAPE), 0.25, attributes={"left_window": 2, "right_window": 3})],
    "queries at the end": [
        Site(qkv(*SHAPE), 0.25, True, {"queries_at_end": 1, "left_window": 7}),
        Site(qkv(2, 4, 2, 33, 5, 16, 8), 0.25, True, {"queries_at_end": 1}),
    ],
    "lengths": [
        Site(qkv(*SHAPE) | {"kv_length": np.array([0, 21])}, 0.25),
        Site(qkv(*SHAPE) | {"kv_length": np.array([17, 40])}, 0.25, True, {"queries_at_end": 1}),
    ],
    "past": [
        Site(
            qkv(*SHAPE) | past(SHAPE, 9), 0.25, True, {"queries_at_end": 1, "left_window": 20}, True
        ),
        Site(qkv(*SHAPE) | past(SHAPE, 0), 0.25, presents=True),
    ],
    "three axes": [Site(qkv(*SHAPE), 0.25, True, flat=True)],
    "three axes with past": [Site(qkv(*SHAPE) | past(SHAPE, 9), 0.25, presents=True, flat=True)],
    "all in one model": [
        Site(qkv(*SHAPE), 0.25, True),
        Site(qkv(*SHAPE) | {"sink": normal(4)}, 0.25, attributes={"softcap": 5.0}, flat=True),
        Site(
            qkv(*SHAPE) | past(SHAPE, 9) | {"kv_length": np.array([3, 40])},
            0.25,
            True,
            {"queries_at_end": 1, "right_window": 1},
        ),
        Site(
            qkv(1, 3, 1, 7, 70, 8, 24) | {"attn_bias": normal(3, 7, 70)},
            0.25,
            attributes={"left_window": 3},
            presents=True,
        ),
        Site(qkv(1, 6, 3, 2, 9, 40, 8) | {"attn_mask": np.tri(2, 9, 4, bool)}, 0.2, flat=True),
    ],
    "float16": [
        Site(
            qkv(*SHAPE, dtype=np.float16)
            | past(SHAPE, 9, np.float16)
            | {"sink": normal(4).astype(np.float16)},
            0.25,
            True,
            {"queries_at_end": 1, "softcap": 4.0},
            True,
            True,
        ),
        Site(qkv(*SHAPE, dtype=np.float16), 0.25),
    ],
}


def check(sites: list[Site], outputs: list[Array]) -> None:
    """Holds outputs, and joined keys and values, against the definition and exact attention."""
    results = iter(outputs)
    for site in sites:
        output, half = next(results), site.inputs["query"].dtype == np.float16
        format = site.attributes["compute_format"]
        assert output.dtype == site.inputs["query"].dtype
        wanted, ideal = (merged(x) if site.flat else x for x in (defined(site), exact(site)))
        assert nmse(output, wanted) <= (
            KERNEL_BOUND if format == "int8" else EXACT_BOUNDS["float"] * (1000 if half else 1)
        )
        assert nmse(output, ideal) <= EXACT_BOUNDS[format] * (
            1000 if half and format == "float" else 1
        )
        if site.presents:
            for whole in joined(site):
                np.testing.assert_array_equal(next(results), whole)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("format", "opset"), list(product(["int8", "float"], [15, 26])))
def test_reference_agrees(name: str, format: str, opset: int) -> None:
    sites = [with_format(site, format) for site in MODELS[name]]
    model, feeds = build_model(sites, opset)
    onnx.checker.check_model(model, full_check=True)
    check(sites, run_reference(model, feeds))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("format", "opset", "level"),
    [*product(["int8", "float"], [17, 23], [LEVELS[-1]]), *product(["int8"], [18], LEVELS[:-1])],
)
def test_onnxruntime_agrees(name: str, format: str, opset: int, level: Any) -> None:
    sites = [with_format(site, format) for site in MODELS[name]]
    model, feeds = build_model(sites, opset)
    check(sites, run_ort(model, feeds, level))


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_loads_and_agrees(opset: int) -> None:
    skip_if_unknown(opset)
    sites = [with_format(site, "int8") for site in MODELS["all in one model"]]
    check(sites, run_ort(*build_model(sites, opset)))


@pytest.mark.parametrize("format", ["int8", "float"])
@pytest.mark.parametrize("run", RUNTIMES)
@pytest.mark.parametrize(("rows", "keys", "length"), [(0, 5, 3), (3, 0, 0), (3, 0, 4), (0, 0, 0)])
@pytest.mark.parametrize("flat", [False, True])
def test_degenerate_extents(
    rows: int, keys: int, length: int, flat: bool, run: Any, format: str
) -> None:
    shape = (2, 4, 2, rows, keys, 16, 8)
    inputs = qkv(*shape) | past(shape, length) | {"sink": normal(4)}
    attributes = {"queries_at_end": 1, "left_window": 2, "softcap": 2.0}
    site = with_format(Site(inputs, 0.25, True, attributes, True, flat), format)
    check([site], run(*build_model([site], 18)))


@pytest.mark.parametrize("format", ["int8", "float"])
@pytest.mark.parametrize("run", RUNTIMES)
def test_nan_stays_in_the_rows_that_see_it(run: Any, format: str) -> None:
    inputs = qkv(1, 2, 1, 4, 4, 16, 8) | {"sink": normal(2)}
    site = with_format(Site(inputs, 0.25, True, {"softcap": 2.0}), format)
    (clean,) = run(*build_model([site], 18))
    for name in ("key", "value"):
        kept = inputs[name].copy()
        inputs[name][0, 0, 2, 1] = np.nan
        (output,) = run(*build_model([site], 18))
        assert np.isnan(output[:, :, 2:]).all()
        np.testing.assert_array_equal(output[:, :, :2], clean[:, :, :2])
        inputs[name] = kept
    inputs["query"][0, 1, 1] = np.nan
    (output,) = run(*build_model([site], 18))
    assert np.isnan(output[0, 1, 1]).all()
    output[0, 1, 1] = clean[0, 1, 1]
    np.testing.assert_array_equal(output, clean)


@pytest.mark.parametrize("format", ["int8", "float"])
@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("run", RUNTIMES)
def test_hidden_keys_never_contribute(poison: float, run: Any, format: str) -> None:
    inputs = qkv(2, 4, 2, 6, 40, 16, 8) | {"kv_length": np.array([31, 25])}
    site = with_format(
        Site(inputs, 0.25, True, {"queries_at_end": 1, "left_window": 9, "softcap": 3.0}), format
    )
    (clean,) = run(*build_model([site], 18))
    for name, (batch, keys) in product(("key", "value"), ((0, slice(31, 40)), (1, slice(25, 40)))):
        inputs[name][batch, :, keys] = poison
        inputs[name][batch, :, : keys.start - 6 - 9] = poison
    (spoiled,) = run(*build_model([site], 18))
    np.testing.assert_array_equal(spoiled, clean)


@pytest.mark.parametrize("format", ["int8", "float"])
@pytest.mark.parametrize("run", RUNTIMES)
def test_a_sink_does_not_fill_rows_that_see_nothing(run: Any, format: str) -> None:
    bias = np.zeros((3, 9), np.float32)
    bias[1], bias[2] = -np.inf, np.finfo(np.float32).min
    inputs = qkv(1, 2, 1, 3, 9, 16, 8) | {"attn_bias": bias, "sink": normal(2)}
    site = with_format(Site(inputs, 0.25), format)
    (output,) = run(*build_model([site], 18))
    np.testing.assert_array_equal(output[:, :, 1:], 0)
    check([site], [output])


def test_a_body_for_both_formats_quantizes_nothing() -> None:
    inputs = qkv(1, 2, 1, 3, 9, 16, 8)
    int8, plain = (with_format(Site(inputs), name).node(0) for name in ("int8", "float"))
    for nodes in ([int8, plain], [plain, int8], [plain]):
        assert BodyFeatures.of(nodes, 18).compute is AttentionFormat.FLOAT
    for nodes in ([int8, int8], [int8], []):
        assert BodyFeatures.of(nodes, 18).compute is AttentionFormat.INT8


def test_a_plain_model_has_a_plain_body() -> None:
    """Nothing that no node uses is in the body."""
    model, _ = build_model([Site(qkv(1, 2, 1, 3, 9, 16, 8), 0.25)], 18)
    written = {node.op_type for node in model.functions[0].node}
    assert not written & {"Tanh", "Slice", "Range", "Expand"}
    assert not model.graph.initializer


@pytest.mark.parametrize("format", ["int8", "float"])
@pytest.mark.parametrize("which", ["query", "key", "value"])
@pytest.mark.parametrize("run", RUNTIMES)
def test_an_infinity_spoils_its_row(which: str, run: Any, format: str) -> None:
    inputs = qkv(1, 2, 1, 4, 4, 16, 8)
    inputs[which][:, :, 2, 1] = -np.inf
    (output,) = run(*build_model([with_format(Site(inputs, 0.25, True), format)], 18))
    spoiled = [False, False, True, which != "query"]
    np.testing.assert_array_equal(np.isnan(output).all(axis=(0, 1, 3)), spoiled)
    np.testing.assert_array_equal(np.isnan(output).any(axis=(0, 1, 3)), spoiled)


def in_float(model: ModelProto) -> None:
    """Puts casts around a bfloat16 model, for ONNX Runtime takes no bfloat16 arrays."""
    before, after = [], []
    kind = onnx.TensorProto.BFLOAT16
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type != kind:
            continue
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        inner = f"{value.name}/bfloat16"
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [inner if name == value.name else name for name in names]
        if value in model.graph.input:
            before.append(onnx.helper.make_node("Cast", [value.name], [inner], to=kind))
        else:
            after.append(onnx.helper.make_node("Cast", [inner], [value.name], to=1))
    nodes = [*before, *model.graph.node, *after]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


@pytest.mark.parametrize("format", ["int8", "float"])
@pytest.mark.parametrize("opset", [15, 18, 23])
def test_bfloat16(format: str, opset: int) -> None:
    inputs = qkv(*SHAPE) | past(SHAPE, 9) | {"attn_bias": normal(5, 42), "sink": normal(4)}
    rounded = {name: x.astype(ml_dtypes.bfloat16) for name, x in inputs.items()}
    site = with_format(Site(rounded, 0.25, attributes={"softcap": 4.0}, presents=True), format)
    model, feeds = build_model([site], opset)
    onnx.checker.check_model(model, full_check=True)
    wide = Site(
        {name: x.astype(np.float32) for name, x in rounded.items()},
        0.25,
        attributes=site.attributes,
    )
    in_float(model)
    feeds = {name: x.astype(np.float32) for name, x in feeds.items()}
    for runtime in RUNTIMES:
        output, key, value = runtime(model, feeds)
        assert nmse(output, exact(wide)) < (5e-4 if format == "int8" else 1e-5)  # eight bits
        for actual, wanted in zip((key, value), joined(wide), strict=True):
            np.testing.assert_array_equal(actual, wanted)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("format", ["int8", "float"])
def test_the_kernel_agrees(name: str, format: str) -> None:
    sites = [with_format(site, format) for site in MODELS[name]]
    model, feeds = build_model(sites, 18)
    check(sites, run(model, feeds, library=True))
