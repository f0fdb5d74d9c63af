"""com.microsoft::MultiHeadAttention: the written-out form gives what ONNX Runtime's kernel gives, and is one site."""

from typing import Any

import numpy as np
import pytest

from qfa_passes.core.site import AttentionSite, MaskKind
from qfa_passes.graph.contrib.multi_head import INPUTS
from tests.sources.nodes import (
    TOLERANCE,
    Array,
    FusedNode,
    check,
    find,
    floats,
    normalized,
    refused,
    run,
)

B, H, S, T, P, D, DV = 2, 3, 5, 5, 4, 8, 6
SHAPES = {
    "query": ("B", "S", H * D),
    "key": ("B", "S", H * D),
    "past_key": ("B", H, "P", D),
    "past_value": ("B", H, "P", D),
}


def block(
    *, keys: int = T, past: bool = False, attrs: dict[str, Any] | None = None, **more: Array
) -> FusedNode:
    v_channels = D if past else DV  # the runtime takes a cache of equal channels only
    feeds = {
        "query": floats(B, S, H * D),
        "key": floats(B, keys, H * D, seed=1),
        "value": floats(B, keys, H * v_channels, seed=2),
        **more,
    }
    outputs = {"output": 3}
    if past:
        feeds["past_key"], feeds["past_value"] = floats(B, H, P, D), floats(B, H, P, D)
        outputs |= {"present_key": 4, "present_value": 4}
    total = "P + S" if past else "S"
    shapes: dict[str, Any] = {
        **SHAPES,
        "value": ("B", "S", H * v_channels),
        "attention_bias": (1, H, "S", total),
    }
    if keys != S:
        shapes |= {"key": ("B", "T", H * D), "value": ("B", "T", H * v_channels)}
    mask = more.get("key_padding_mask")
    if mask is not None and mask.size == 3 * B + 2:
        shapes = {}  # what such a mask means shows only where the batch is known
    elif mask is not None:
        shapes["key_padding_mask"] = (("B",), ("B", total), ("B", "S", total))[mask.ndim - 1]
    return FusedNode(
        "MultiHeadAttention", INPUTS, feeds, shapes, {"num_heads": H, **(attrs or {})}, outputs
    )


def zeros_and_ones(*shape: int) -> Array:
    return np.random.default_rng(7).integers(0, 2, shape).astype(np.int32)


MASKS = {
    "lengths": np.array([3, 1], np.int32),
    "lengths and offsets": np.array([3, 1, 0, 5, 10, 0, 5, 10], np.int32),
    "keys": zeros_and_ones(B, T),
    "pairs": zeros_and_ones(B, S, T),
}


def test_other_keys() -> None:
    check(block(keys=7))


def test_refused() -> None:
    """In the runtime the last query of a causal block sees all keys, so their number must be that of the queries."""
    assert "may be different" in refused(block(keys=7, attrs={"unidirectional": 1}))


def test_keys_and_values_of_a_cross_attention() -> None:
    feeds = {"query": floats(B, S, H * D), "key": floats(B, H, 7, D), "value": floats(B, H, 7, D)}
    shapes = {"query": ("B", "S", H * D), "key": ("B", H, "T", D), "value": ("B", H, "T", D)}
    for more in ({}, {"bias": floats(3 * H * D)}):
        outputs = {"output": 3, "present_key": 4, "present_value": 4}
        attrs = {"num_heads": H}
        check(FusedNode("MultiHeadAttention", INPUTS, feeds | more, shapes, attrs, outputs))


def test_present_without_past() -> None:
    case = block()
    case.outputs = {"output": 3, "present_key": 4, "present_value": 4}
    check(case)


@pytest.mark.parametrize("bias", (False, True))
def test_packed(bias: bool) -> None:
    """The runtime's CPU kernel takes no packed inputs: the same node with its inputs apart is the oracle."""
    q, k, v = (floats(B, T, H, D, seed=seed) for seed in range(3))
    more = {"bias": floats(3 * H * D)} if bias else {}
    rows = {"query": q.reshape(B, T, -1), "key": k.reshape(B, T, -1), "value": v.reshape(B, T, -1)}
    attrs = {"num_heads": H}
    (expected,) = run(
        FusedNode("MultiHeadAttention", INPUTS, rows | more, {}, attrs).model(), rows | more
    )
    for feeds in (
        {"query": np.stack([q, k, v], 3)},
        {"query": rows["query"], "key": np.stack([k, v], 3)},
    ):
        shapes = {name: ("B", "T", *feed.shape[2:]) for name, feed in feeds.items()}
        case = FusedNode("MultiHeadAttention", INPUTS, feeds | more, shapes, attrs)
        result = normalized(case.model())
        np.testing.assert_allclose(
            run(result, case.feeds)[0], expected, rtol=TOLERANCE, atol=TOLERANCE
        )
        (site,) = find(result)
        assert isinstance(site, AttentionSite), site


@pytest.mark.parametrize("mask", (None, "keys", "lengths"))
def test_half(mask: str | None) -> None:
    """The runtime's CPU kernel takes float32 only, which is the oracle."""
    case = block(attrs={"unidirectional": 1})
    if mask == "keys":
        case.feeds["key_padding_mask"] = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
    elif mask == "lengths":
        case.feeds["key_padding_mask"] = np.array([3, 5], np.int32)
    case.shapes = {**case.shapes, "key_padding_mask": ("B", "S") if mask == "keys" else ("B",)}
    (expected,) = run(case.model(), case.feeds)
    for name in ("query", "key", "value"):
        case.feeds[name] = case.feeds[name].astype(np.float16)
    case.kind = np.float16
    result = normalized(case.model())
    np.testing.assert_allclose(run(result, case.feeds)[0], expected, rtol=1e-2, atol=1e-2)
    (site,) = find(result)
    assert isinstance(site, AttentionSite), site


def test_plain() -> None:
    site = check(block())
    assert (site.num_heads, site.kv_num_heads, site.qk_channels, site.v_channels) == (H, H, D, DV)
    assert site.scale == pytest.approx(D**-0.5)
    assert not site.mask.causal and not site.mask.terms
    assert site.exporter == "com.microsoft::MultiHeadAttention"


@pytest.mark.parametrize("past", (False, True))
@pytest.mark.parametrize("causal", (0, 1))
@pytest.mark.parametrize("bias", (False, True))
@pytest.mark.parametrize("mask", (None, "keys", "lengths"))
@pytest.mark.parametrize("added", (False, True))
def test_combinations(past: bool, causal: int, bias: bool, mask: str | None, added: bool) -> None:
    more: dict[str, Array] = {}
    total = T + P if past else T
    if bias:
        more["bias"] = floats(2 * H * D + H * (D if past else DV))
    if mask == "keys":
        more["key_padding_mask"] = zeros_and_ones(B, total)
    elif mask == "lengths":
        more["key_padding_mask"] = np.array([3, 6], np.int32)
    if added:
        more["attention_bias"] = floats(1, H, S, total)
    site = check(block(past=past, attrs={"unidirectional": causal, "scale": 0.3}, **more))
    assert site.scale == pytest.approx(0.3)
    kinds = [term.kind for term in site.mask.terms if term.kind is MaskKind.BIAS]
    assert len(kinds) == bool(mask) + added


@pytest.mark.parametrize("form", MASKS)
@pytest.mark.parametrize("fill", (-10000.0, -2.0, float(np.finfo(np.float32).min)))
def test_masks(form: str, fill: float) -> None:
    check(block(attrs={"mask_filter_value": fill}, key_padding_mask=MASKS[form]))
