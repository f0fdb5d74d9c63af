"""Faults of a match, one by one: the proof of a site's structure catches each, at the fast level."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from onnx import ModelProto

from qfa_passes.core.outcome import Standing
from qfa_passes.core.site import AttentionSite, Cache, Mask, MaskKind, MaskTerm
from qfa_passes.core.view import View, ViewOp, permute
from tests.match.blocks import Block
from tests.verify.everything import (
    BEFORE_SELF,
    LEFT,
    SITE,
    TILED,
    UP_TO_NEXT,
    everything,
)
from tests.verify.proving import prove

Fault = Callable[[AttentionSite], AttentionSite]
KEEP, BIAS = SITE.mask.terms


def masked(**changes: object) -> Fault:
    return lambda site: replace(site, mask=replace(site.mask, **changes))


def changed(**changes: object) -> Fault:
    return lambda site: replace(site, **changes)


FAULTS: dict[str, Fault] = {
    "flipped sign of the scale": changed(scale=-SITE.scale),
    "wrong scale": changed(scale=SITE.scale * 1.001),
    "forgotten scale": changed(scale=1.0),
    "K and V swapped": changed(key=SITE.value, value=SITE.key),
    "not causal": masked(causal=False),
    "dropped mask": masked(terms=(BIAS,)),
    "inverted mask": masked(terms=(replace(KEEP, kind=MaskKind.DROP), BIAS)),
    "dropped bias": masked(terms=(KEEP,)),
    "doubled bias": masked(terms=(KEEP, replace(BIAS, factor=2.0))),
    "window one shorter": masked(left_window=LEFT - 1),
    "window one longer": masked(left_window=LEFT + 1),
    "no window": masked(left_window=-1),
    "lengths ignored": masked(kv_length=None),
    "queries at the start": masked(queries_at_end=False),
    "softcap dropped": changed(softcap=0.0),
    "wrong softcap": changed(softcap=SITE.softcap * 1.01),
    "sink dropped": changed(sink=None),
    "past dropped": changed(cache=None),
    "past K and V swapped": changed(cache=Cache("pv", "pk", "kk", "vv")),
    "present K and V swapped": changed(cache=Cache("pk", "pv", "vv", "kk")),
    "wrong view of Q": changed(
        query=replace(SITE.query, views=(View(ViewOp.RESHAPE, (0, 4, -1, 8)),))
    ),
    "transposed channels of Q": changed(
        query=replace(SITE.query, views=(View(ViewOp.RESHAPE, (0, 0, 8, 4)), *permute(0, 3, 1, 2)))
    ),
    "wrong view of the output": changed(output_views=(View(ViewOp.RESHAPE, (0, -1, 32)),)),
    "heads of the output reversed": changed(
        output_views=(*permute(0, 2, 3, 1), View(ViewOp.RESHAPE, (0, 0, 32)))
    ),
}


def test_the_block_with_everything_is_proven() -> None:
    proof = prove(everything(), SITE)
    assert proof.standing is Standing.PROVEN
    assert proof.nmse is not None and proof.nmse < 1e-12
    assert proof.sizes == "B 2, S 5, T 14"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_match_is_caught(fault: str) -> None:
    proof = prove(everything(), FAULTS[fault](SITE))
    assert proof.standing is Standing.DISPROVEN
    assert proof.nmse is None or proof.nmse > 1e-8


@pytest.mark.parametrize(
    "model",
    [everything(heads=TILED), everything(causal=BEFORE_SELF), everything(causal=UP_TO_NEXT)],
    ids=["query head h at key head h % Hkv", "one key less", "one key more"],
)
def test_a_model_that_only_looks_like_the_site_is_caught(model: ModelProto) -> None:
    assert prove(model, SITE).standing is Standing.DISPROVEN


WINDOW = Block(
    constants="""int64 zero = {0}, int64 one = {1}, int64[1] rows = {2}, int64[1] a1 = {1}, int64 left = {2},
        float ninf = {-inf}, int64[1] a0 = {0}""",
    inputs="float[B,4,S,8] q, float[B,4,S,8] k, float[B,4,S,6] v",
    mask="""qs = Shape(q) S1 = Gather(qs, rows) S = Squeeze(S1, a0) r = Range(zero, S, one) i = Unsqueeze(r, a1)
        lo = Sub(i, left) m1 = GreaterOrEqual(r, lo) hi = Add(i, one) m2 = LessOrEqual(r, hi) m = And(m1, m2)
        y = Where(m, x, ninf)""",
)
WINDOWED = AttentionSite(
    name="window",
    query=replace(SITE.key, tensor="q"),
    key=replace(SITE.key, tensor="k"),
    value=replace(SITE.key, tensor="v"),
    output="o",
    mask=Mask(left_window=2, right_window=1),
    scale=1.0,
    num_heads=4,
    kv_num_heads=4,
    qk_channels=8,
    v_channels=6,
    dtype=SITE.dtype,
    nodes=(),
    exporter="decomposed",
)


def test_a_window_to_both_sides_is_proven() -> None:
    assert prove(WINDOW.model(), WINDOWED).standing is Standing.PROVEN


@pytest.mark.parametrize("window", [(1, 1), (3, 1), (2, 0), (2, 2), (2, -1), (-1, 1)])
def test_another_window_is_caught(window: tuple[int, int]) -> None:
    fault = masked(left_window=window[0], right_window=window[1])
    assert prove(WINDOW.model(), fault(WINDOWED)).standing is Standing.DISPROVEN


def test_a_mask_that_no_term_names_is_caught_whatever_computes_it() -> None:
    block = Block(
        inputs="float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,T,6] v, float[B,T] flags",
        constants="float half = {0.5}, float ninf = {-inf}, int64[2] axes = {1, 2}",
        mask="c = Greater(flags, half) u = Unsqueeze(c, axes) y = Where(u, ninf, x)",
    )
    site = replace(WINDOWED, mask=Mask())
    assert prove(block.model(), site).standing is Standing.DISPROVEN
    named = replace(WINDOWED, mask=Mask(terms=(MaskTerm("u", MaskKind.DROP),)))
    assert prove(block.model(), named).standing is Standing.PROVEN
