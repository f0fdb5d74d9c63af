"""Half precision with parts in float32, and what masked_fill puts in."""

from dataclasses import replace

import pytest
from onnx import TensorProto

from qfa_passes.core.view import View, ViewOp
from tests.match.blocks import PLAIN_INPUTS, Block, refusal_of
from tests.match.oracle import check_site

HALF = Block(
    inputs="float16[B,4,S,8] q, float16[B,4,T,8] k, float16[B,4,T,6] v",
    outputs="float16[B,4,S,6] o",
)
WIDE = (View(ViewOp.CAST, (TensorProto.FLOAT,)),)


def test_softmax_in_float32() -> None:
    block = replace(HALF, mask="y = Cast<to=1>(x)", weights="w = Cast<to=10>(p)")
    site = check_site(block.model(), tolerance=5e-3)
    assert (site.dtype, site.query.views) == (TensorProto.FLOAT16, ())


def test_product_with_v_in_float32() -> None:
    """Q and K are widened to the type of V, and the output stays in it."""
    block = replace(
        HALF,
        mask="y = Cast<to=1>(x)",
        product="vw = Cast<to=1>(v) o = MatMul(w, vw)",
        outputs="float[B,4,S,6] o",
    )
    site = check_site(block.model(), tolerance=5e-3)
    assert site.dtype == TensorProto.FLOAT
    assert (site.query.views, site.key.views) == (WIDE, WIDE)


def test_mask_in_float32() -> None:
    block = replace(
        HALF,
        inputs=f"{HALF.inputs}, float[B,1,1,T] m",
        mask="x1 = Cast<to=1>(x) x2 = Add(x1, m) y = Cast<to=10>(x2)",
    )
    check_site(block.model(), tolerance=5e-3)


FILLS = {
    "scalar": "y = Where(keep, x, low)",
    "of one row": "f = Expand(low, row) y = Where(keep, x, f)",
    "made": "f = ConstantOfShape<value = float[1] {-1e9}>(row) y = Where(keep, x, f)",
    "computed": "f = Neg(high) y = Where(keep, x, f)",
    "cast": "f16 = Cast<to=10>(low4) f = Cast<to=1>(f16) y = Where(keep, x, f)",
}


@pytest.mark.parametrize("name", FILLS)
def test_fill(name: str) -> None:
    block = Block(
        inputs=f"{PLAIN_INPUTS}, bool[B,1,1,T] keep",
        constants="float low = {-1e9}, float low4 = {-10000.0}, float high = {1e9}, int64[1] row = {1}",
        mask=FILLS[name],
    )
    (term,) = check_site(block.model()).mask.terms
    assert term.fill <= -9984


def test_fill_of_several_numbers_is_none() -> None:
    block = Block(
        inputs="float[B,4,S,8] q, float[B,4,2,8] k, float[B,4,2,6] v, bool[B,1,1,2] keep",
        constants="float[2] two = {-1e9, -2e9}",
        mask="y = Where(keep, x, two)",
    )
    assert "selects between two computed values" in refusal_of(block.model()).reason


SHIFTS = {
    "largest score": ("h = ReduceMax<axes=[-1]>(x) y = Sub(x, h)", None),
    "its axis put back": (
        "h0 = ReduceMax<axes=[-1], keepdims=0>(x) h = Unsqueeze(h0, last) y = Sub(x, h)",
        None,
    ),
    "between two factors, as in CogView": (
        """z = Div(x, alpha) h0 = ReduceMax<axes=[3], keepdims=0>(z) h = Unsqueeze(h0, last) d = Sub(z, h)
        y = Mul(d, alpha)""",
        None,
    ),
    "its axis put elsewhere": (
        "h0 = ReduceMax<axes=[-1], keepdims=0>(x) h = Unsqueeze(h0, rows) y = Sub(x, h)",
        "operator ReduceMax",
    ),
    "largest of all": ("h = ReduceMax(x) y = Sub(x, h)", "used by 2 nodes"),
    "largest of a query's column": ("h = ReduceMax<axes=[2]>(x) y = Sub(x, h)", "used by 2 nodes"),
    "smallest score": ("h = ReduceMin<axes=[-1]>(x) y = Sub(x, h)", "used by 2 nodes"),
    "turned round": ("h = ReduceMax<axes=[-1]>(x) y = Sub(h, x)", "operator ReduceMax"),
}


@pytest.mark.parametrize("name", SHIFTS)
def test_shifted_rows(name: str) -> None:
    mask, reason = SHIFTS[name]
    block = Block(
        constants="int64[1] last = {-1}, int64[1] rows = {2}, float alpha = {32.0}", mask=mask
    )
    if reason is None:
        assert check_site(block.model()).mask.terms == ()
    else:
        assert reason in refusal_of(block.model()).reason
