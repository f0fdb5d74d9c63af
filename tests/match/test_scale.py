"""Where exporters put the scale, and how they compute it."""

import math

import onnx
import pytest

from tests.match.blocks import Block, refusal_of, site_of
from tests.match.oracle import check_site

ROOT = "float c = {0.125}"
DYNAMIC = """
d1 = Shape(q) d2 = Gather(d1, last) d3 = Cast <to = 1> (d2) d4 = Sqrt(d3)
"""
SCALED = {
    "after the product": (Block(constants=ROOT, scores="s = MatMul(q, kt) x = Mul(s, c)"), 0.125),
    "commuted": (Block(constants=ROOT, scores="s = MatMul(q, kt) x = Mul(c, s)"), 0.125),
    "divided": (
        Block(constants="float c = {8.0}", scores="s = MatMul(q, kt) x = Div(s, c)"),
        0.125,
    ),
    "constant of rank 4": (
        Block(constants="float[1,1,1,1] c = {0.125}", scores="s = MatMul(q, kt) x = Mul(s, c)"),
        0.125,
    ),
    "on q": (Block(constants=ROOT, before="qs = Mul(q, c)", scores="x = MatMul(qs, kt)"), 0.125),
    "on k": (
        Block(constants=ROOT, before="ks = Mul(k, c)", keys="kt = Transpose<perm=[0,1,3,2]>(ks)"),
        0.125,
    ),
    "on k transposed": (
        Block(constants=ROOT, keys="kr = Transpose<perm=[0,1,3,2]>(k) kt = Mul(kr, c)"),
        0.125,
    ),
    "split between q and k": (
        Block(
            constants="float c = {0.5}",
            before="qs = Mul(q, c) ks = Mul(k, c)",
            keys="kt = Transpose<perm=[0,1,3,2]>(ks)",
            scores="x = MatMul(qs, kt)",
        ),
        0.25,
    ),
    "negative": (
        Block(constants="float c = {-0.5}", scores="s = MatMul(q, kt) x = Mul(s, c)"),
        -0.5,
    ),
    "several": (
        Block(
            constants="float c = {0.5}, float d = {4.0}",
            scores="s = MatMul(q, kt) s1 = Mul(s, c) x = Div(s1, d)",
        ),
        0.125,
    ),
    "from the shape": (
        Block(
            constants="int64 last = {3}",
            before=DYNAMIC,
            scores="s = MatMul(q, kt) x = Div(s, d4)",
        ),
        1 / math.sqrt(8),
    ),
    "from the shape, split": (
        Block(
            constants="int64 last = {3}, float one = {1.0}",
            before=DYNAMIC + "d5 = Div(one, d4) d6 = Sqrt(d5) qs = Mul(q, d6) ks = Mul(k, d6)",
            keys="kt = Transpose<perm=[0,1,3,2]>(ks)",
            scores="x = MatMul(qs, kt)",
        ),
        1 / math.sqrt(8),
    ),
    "integer division": (
        Block(
            constants="int64 seven = {7}, int64 two = {2}",
            before="i = Div(seven, two) c = Cast <to = 1> (i)",
            scores="s = MatMul(q, kt) x = Mul(s, c)",
        ),
        3.0,
    ),
    "truncated by a cast": (
        Block(
            constants="float f = {2.75}",
            before="i = Cast <to = 7> (f) c = Cast <to = 1> (i)",
            scores="s = MatMul(q, kt) x = Mul(s, c)",
        ),
        2.0,
    ),
    "none": (Block(), 1.0),
}


@pytest.mark.parametrize("name", SCALED)
def test_scale_is_read_wherever_it_stands(name: str) -> None:
    block, scale = SCALED[name]
    assert check_site(block.model()).scale == pytest.approx(scale)


REFUSED = {
    "one per score": (
        f"float[4,1,5,7] c = {{{', '.join(['1.0'] * 140)}}}",
        "x = Mul(s, c)",
        "'n2'",
    ),
    "zero": ("float c = {0.0}", "x = Mul(s, c)", "'n2'"),
    "infinite": ("float z = {0.0}", "x = Div(s, z)", "'n2'"),
    "not a number": ("float z = {0.0}", "n = Div(z, z) x = Mul(s, n)", "'n3'"),
    "divided by the scores": ("float c = {8.0}", "x = Div(c, s)", "'n2'"),
    "squared": ("float c = {1.0}", "x = Mul(s, s)", "'n2'"),
    "added to themselves": ("float c = {1.0}", "x = Add(s, s)", "'n2'"),
    "sine": ("float c = {1.0}", "x = Sin(s)", "'n2'"),
    "rounded": ("float c = {1.0}", "i = Cast<to=7>(s) x = Cast<to=1>(i)", "'n2' casts"),
    "beyond float32": ("float c = {1e-30}", "s1 = Mul(s, c) x = Mul(s1, c)", "scaled by"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_arithmetic_on_the_scores_is_refused(name: str) -> None:
    constants, scores, named = REFUSED[name]
    block = Block(constants=constants, scores=f"s = MatMul(q, kt) {scores}")
    assert named in refusal_of(block.model()).reason


BIASED = "float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,T,6] v, float[B,1,1,T] bias"


@pytest.mark.parametrize("scale", ["x = Mul(s, c)", "x = Div(s, c)"])
def test_scale_of_each_head_becomes_part_of_q(scale: str) -> None:
    block = Block(
        constants="float[4,1,1] c = {1.0, 2.0, 3.0, 4.0}", scores=f"s = MatMul(q, kt) {scale}"
    )
    site = check_site(block.model())
    assert (site.scale, site.key.tensor) == (1.0, "k")


def test_scale_in_bfloat16() -> None:
    block = Block(
        inputs="bfloat16[B,4,S,8] q, bfloat16[B,4,T,8] k, bfloat16[B,4,T,6] v",
        scores="s = MatMul(q, kt) x = Mul(s, c)",
        before="q0 = Identity(q)",
        outputs="bfloat16[B,4,S,6] o",
    )
    model = block.model()
    model.graph.initializer.append(
        onnx.helper.make_tensor("c", onnx.TensorProto.BFLOAT16, [], [0.125])
    )
    site = site_of(model)
    assert (site.scale, site.dtype) == (0.125, onnx.TensorProto.BFLOAT16)


def test_scale_after_a_mask_scales_it_too() -> None:
    block = Block(inputs=BIASED, constants=ROOT, mask="m = Add(x, bias) y = Mul(m, c)")
    site = check_site(block.model())
    assert (site.scale, [term.factor for term in site.mask.terms]) == (0.125, [0.125])


@pytest.mark.parametrize(
    ("mask", "scale", "factor"), [("Sub(x, bias)", 1, -1), ("Sub(bias, x)", -1, 1)]
)
def test_subtracted_mask(mask: str, scale: float, factor: float) -> None:
    site = check_site(Block(inputs=BIASED, mask=f"y = {mask}").model())
    assert (site.scale, [term.factor for term in site.mask.terms]) == (scale, [factor])


def test_scale_after_a_fill_scales_it_too() -> None:
    inputs = BIASED.replace("float[B,1,1,T] bias", "bool[B,1,1,T] keep")
    constants = "float low = {-1e9}, float c = {0.125}, float turned = {-0.125}"
    masked = "m = Where(keep, x, low)"
    site = check_site(
        Block(inputs=inputs, constants=constants, mask=f"{masked} y = Mul(m, c)").model()
    )
    (term,) = site.mask.terms
    assert site.scale == 0.125 and term.fill <= -1.25e8
    turned = Block(inputs=inputs, constants=constants, mask=f"{masked} y = Mul(m, turned)")
    assert "'n3' scales masked scores to 1.25e+08" in refusal_of(turned.model()).reason


def test_factor_of_more_axes_than_the_scores() -> None:
    block = Block(
        constants="float[1,1,1,1,1] c = {0.5}",
        scores="s = MatMul(q, kt) x = Mul(s, c)",
        outputs="float[1,B,4,S,6] o",
    )
    assert check_site(block.model()).scale == 0.5


def test_scale_that_is_an_input_with_a_default_is_no_constant() -> None:
    block = Block(
        inputs="float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,T,6] v, float c",
        constants=ROOT,
        scores="s = MatMul(q, kt) x = Mul(s, c)",
    )
    assert "'n2'" in refusal_of(block.model()).reason


def test_scaled_v_is_its_own_operand() -> None:
    block = Block(constants=ROOT, before="vs = Mul(v, c)", product="o = MatMul(w, vs)")
    assert check_site(block.model()).value.tensor == "vs"
