"""com.microsoft::Attention, which holds its projections: the written-out form against ONNX Runtime's kernel."""

from typing import Any

import numpy as np
import pytest

from qfa_passes.core.site import MaskKind
from qfa_passes.graph.contrib.merged import INPUTS
from tests.sources.nodes import Array, FusedNode, check, floats, refused

B, S, E, H, D, P = 2, 4, 6, 3, 8, 5


def block(
    *,
    v_channels: int = D,
    past: bool = False,
    present: bool = False,
    attrs: Any = None,
    constant: bool = True,
    **more: Array,
) -> FusedNode:
    width = H * (2 * D + v_channels)
    feeds = {
        "input": floats(B, S, E),
        "weights": floats(E, width),
        "bias": floats(width),
        **more,
    }
    shapes: dict[str, Any] = {"input": ("B", "S", E)}
    length = "S + P" if past else "S"
    mask = more.get("mask_index")
    if mask is not None and mask.ndim == 1 and mask.size > B:
        shapes = {}  # what such a mask means shows only where the batch is known
    elif mask is not None:
        shapes["mask_index"] = (("B",), ("B", length), ("B", "S", length))[mask.ndim - 1]
    if "attention_bias" in more:
        shapes["attention_bias"] = ({1: 1, B: "B"}[len(more["attention_bias"])], H, "S", length)
    outputs = {"output": 3}
    if past:
        feeds["past"] = floats(2, B, H, P, D)
        shapes["past"] = (2, "B", H, "P", D) if shapes else feeds["past"].shape
    if past or present:
        outputs["present"] = 5
    attrs = {"num_heads": H, **(attrs or {})}
    constants = ("weights", "bias") if constant else ()
    return FusedNode("Attention", INPUTS, feeds, shapes, attrs, outputs, constants=constants)


def zeros_and_ones(*shape: int) -> Array:
    return np.random.default_rng(3).integers(0, 2, shape).astype(np.int32)


MASKS = {
    "lengths": np.array([3, 1], np.int32),
    "ends and starts": np.array([3, 4, 1, 2], np.int32),
    "lengths and offsets": np.array([3, 1, 0, 4, 8, 0, 4, 8], np.int32),
    "keys": zeros_and_ones(B, S),
    "pairs": zeros_and_ones(B, S, S),
}


def test_plain() -> None:
    site = check(block())
    assert (site.num_heads, site.kv_num_heads, site.qk_channels, site.v_channels) == (H, H, D, D)
    assert site.scale == pytest.approx(D**-0.5)
    assert not site.mask.causal and not site.mask.terms
    assert site.exporter == "com.microsoft::Attention"


def test_causal_is_seen() -> None:
    assert check(block(attrs={"unidirectional": 1})).mask.causal


def test_values_of_other_channels() -> None:
    site = check(block(v_channels=6, attrs={"qkv_hidden_sizes": [H * D, H * D, H * 6]}))
    assert (site.qk_channels, site.v_channels) == (D, 6)


def test_weights_that_are_computed() -> None:
    check(block(constant=False))


@pytest.mark.parametrize("causal", (0, 1))
@pytest.mark.parametrize("past", (False, True))
@pytest.mark.parametrize("mask", (None, "keys", "lengths"))
@pytest.mark.parametrize("scale", (0.0, 0.4))
def test_combinations(causal: int, past: bool, mask: str | None, scale: float) -> None:
    more = {}
    if mask == "keys":
        more["mask_index"] = zeros_and_ones(B, S + P if past else S)
    elif mask == "lengths":
        more["mask_index"] = np.array([4, 2], np.int32)
    attrs = {"unidirectional": causal, "scale": scale}
    site = check(block(past=past, present=True, attrs=attrs, **more))
    kinds = [term.kind for term in site.mask.terms if term.kind is MaskKind.BIAS]
    assert len(kinds) == bool(mask)


@pytest.mark.parametrize("form", MASKS)
@pytest.mark.parametrize("causal", (0, 1))
@pytest.mark.parametrize("fill", (-10000.0, -2.0))
def test_masks(form: str, causal: int, fill: float) -> None:
    attrs = {"mask_filter_value": fill, "unidirectional": causal}
    check(block(attrs=attrs, mask_index=MASKS[form]))


@pytest.mark.parametrize("batch", (1, B))
def test_bias(batch: int) -> None:
    more = {"attention_bias": floats(batch, H, S, S), "mask_index": zeros_and_ones(B, S)}
    check(block(attrs={"unidirectional": 1}, **more))


def test_refused() -> None:
    assert "do_rotary" in refused(block(attrs={"do_rotary": 1}))
    square = zeros_and_ones(B, 1, 9, 9)
    case = block()
    case.feeds["mask_index"] = square
    assert "rank 4" in refused(case)
    case = block()
    case.feeds["mask_index"] = MASKS["ends and starts"]
    assert "what they mean is not clear" in refused(case)
    sizes = {"qkv_hidden_sizes": [H * D, H * D, H * 6]}
    assert "one cache" in refused(block(v_channels=6, present=True, attrs=sizes))
