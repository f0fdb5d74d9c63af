"""Attention sinks: one more logit per head, in the softmax and not in the product."""

from dataclasses import replace

import pytest

from tests.match.blocks import PLAIN_INPUTS, Block, refusal_of
from tests.match.oracle import check_site

CONSTANTS = """int64[1] zero = {0}, int64[1] one = {1}, int64[1] minus = {-1}, int64[1] last = {3}, int64[1] two = {2},
    int64[1] end = {9223372036854775807}, int64[1] m2 = {-2}, int64[4] heads = {1, 4, 1, 1}"""
COLUMN = """
    qs = Shape(q) b = Slice(qs, zero, one) s = Slice(qs, two, last)
    to = Concat<axis=0>(b, one, s, one) r = Reshape(sink, heads) c = Expand(r, to)
"""
SINK = Block(
    inputs=f"{PLAIN_INPUTS}, float[4] sink",
    constants=CONSTANTS,
    before=COLUMN,
    mask="y = Concat<axis=-1>(x, c)",
    weights="w = Slice(p, zero, minus, last)",
)
FORMS = {
    "plain": SINK,
    "largest score taken away": replace(
        SINK, mask="y0 = Concat<axis=-1>(x, c) h = ReduceMax<axes=[-1]>(y0) y = Sub(y0, h)"
    ),
    "axis 3": replace(SINK, mask="y = Concat<axis=3>(x, c)"),
    "in front": replace(
        SINK, mask="y = Concat<axis=-1>(c, x)", weights="w = Slice(p, one, end, last)"
    ),
    "casts around": replace(
        SINK,
        mask="y0 = Concat<axis=-1>(x, c) y = Cast<to=11>(y0)",
        weights="w0 = Cast<to=1>(p) w = Slice(w0, zero, minus, last)",
    ),
    "mask before": replace(
        SINK,
        inputs=f"{PLAIN_INPUTS}, float[4] sink, float[S,T] bias",
        mask="x0 = Add(x, bias) y = Concat<axis=-1>(x0, c)",
    ),
    "masks everything": replace(
        SINK,
        inputs=f"{PLAIN_INPUTS}, float[4] sink, bool[B,1,S,T] keep",
        constants=f"{CONSTANTS}, float ninf = {{-inf}}",
        mask="x0 = Where(keep, x, ninf) y = Concat<axis=-1>(x0, c)",
    ),
    "counted end": replace(
        SINK,
        weights="ks = Shape(k) t = Slice(ks, two, last) w = Slice(p, zero, t, last)",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_sink(name: str) -> None:
    site = check_site(FORMS[name].model())
    assert site.sink == "sink"


REFUSED = {
    "one per row": (
        replace(SINK, inputs=f"{PLAIN_INPUTS}, float[B,4,S,1] c", before="qs = Shape(q)"),
        "the sink 'c' is not one number per head",
    ),
    "one per batch": (
        replace(
            SINK,
            inputs=f"{PLAIN_INPUTS}, float[B,1,1,1] r",
            before=COLUMN.replace("r = Reshape(sink, heads)", "").replace("b, one,", "b, four,"),
            constants=f"{CONSTANTS}, int64[1] four = {{4}}",
        ),
        "the sink 'c' is not one number per head",
    ),
    "kept in the product": (
        replace(
            SINK,
            inputs="float[B,4,S,8] q, float[B,4,7,8] k, float[B,4,8,6] v, float[4] sink",
            weights="w = Identity(p)",
        ),
        "the weight of the sink 'c' reaches the product",
    ),
    "a key goes instead": (
        replace(SINK, weights="w = Slice(p, one, end, last)"),
        "does not take away the weight of the sink 'c' alone",
    ),
    "two columns go": (
        replace(
            SINK,
            weights="w = Slice(p, zero, m2, last)",
            product="o = MatMul(w, v1)",
            before=f"{COLUMN} v1 = Slice(v, one, end, two)",
        ),
        "does not take away the weight of the sink 'c' alone",
    ),
    "a query goes": (
        replace(SINK, weights="w = Slice(p, zero, minus, two)"),
        "does not take away the weight of the sink 'c' alone",
    ),
    "joined along the queries": (
        replace(
            SINK,
            inputs=f"{PLAIN_INPUTS}, float[B,4,1,T] c",
            before="qs = Shape(q)",
            mask="y = Concat<axis=2>(x, c)",
            weights="w = Slice(p, zero, minus, two)",
        ),
        "operator Concat",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_sink_is_refused(name: str) -> None:
    block, reason = REFUSED[name]
    model = block.model()
    model.graph.output[0].ClearField("type")
    assert reason in refusal_of(model).reason
