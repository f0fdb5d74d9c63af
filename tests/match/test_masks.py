"""Which masks become terms, and with what meaning."""

from dataclasses import replace

import numpy as np
import pytest

from qfa_passes.core.site import Mask, MaskKind, MaskTerm
from tests.match.blocks import PLAIN_INPUTS, Block, refusal_of, site_of
from tests.match.oracle import check_site

INF = "float ninf = {-inf}, float zero = {0.0}"
LOW = "float low = {-3.4028234e38}, float zero = {0.0}"
PADDING = f"{PLAIN_INPUTS}, bool[B,1,1,T] keep"


def block(mask: str, inputs: str = PADDING, constants: str = INF) -> Block:
    """A block with these nodes between x and y."""
    return Block(inputs=inputs, constants=constants, mask=mask)


BIAS, KEEP, DROP = MaskKind.BIAS, MaskKind.KEEP, MaskKind.DROP
UNDERSTOOD = {
    "bias": (block("y = Add(x, bias)", f"{PLAIN_INPUTS}, float[B,1,S,T] bias"), [(BIAS, "bias")]),
    "commuted": (
        block("y = Add(bias, x)", f"{PLAIN_INPUTS}, float[B,1,S,T] bias"),
        [(BIAS, "bias")],
    ),
    "bias per head": (
        block("y = Add(x, bias)", f"{PLAIN_INPUTS}, float[1,4,S,T] bias"),
        [(BIAS, "bias")],
    ),
    "bias of low rank": (
        block("y = Add(x, bias)", f"{PLAIN_INPUTS}, float[S,T] bias"),
        [(BIAS, "bias")],
    ),
    "two biases": (
        block("x1 = Add(x, a) y = Add(b, x1)", f"{PLAIN_INPUTS}, float[S,T] a, float[B,1,1,T] b"),
        [(BIAS, "a"), (BIAS, "b")],
    ),
    "keep": (block("y = Where(keep, x, ninf)"), [(KEEP, "keep")]),
    "drop": (block("y = Where(keep, ninf, x)"), [(DROP, "keep")]),
    "not": (block("n = Not(keep) y = Where(n, ninf, x)"), [(KEEP, "keep")]),
    "bool behind a bias": (block("b = Where(keep, zero, ninf) y = Add(x, b)"), [(KEEP, "keep")]),
    "drop behind a bias": (block("b = Where(keep, ninf, zero) y = Add(x, b)"), [(DROP, "keep")]),
    "finite fill": (block("y = Where(keep, x, low)", constants=LOW), [(KEEP, "keep")]),
    "finite bias": (
        block("b = Where(keep, zero, low) y = Add(x, b)", constants=LOW),
        [(BIAS, "b")],
    ),
    "one minus, times a low number": (
        block(
            "f = Cast<to=1>(keep) i = Sub(one, f) b = Mul(i, low) y = Add(x, b)",
            constants=f"{LOW}, float one = {{1.0}}",
        ),
        [(BIAS, "b")],
    ),
    "conjunction": (
        block("both = And(keep, more) y = Where(both, x, ninf)", f"{PADDING}, bool[S,T] more"),
        [(KEEP, "keep"), (KEEP, "more")],
    ),
    "disjunction of drops": (
        block("d = Or(keep, more) y = Where(d, ninf, x)", f"{PADDING}, bool[S,T] more"),
        [(DROP, "keep"), (DROP, "more")],
    ),
    "disjunction of keeps": (
        block("d = Or(keep, more) y = Where(d, x, ninf)", f"{PADDING}, bool[S,T] more"),
        [(KEEP, "d")],
    ),
    "conjunction with a finite fill": (
        block("both = And(keep, more) y = Where(both, x, low)", f"{PADDING}, bool[S,T] more", LOW),
        [(KEEP, "both")],
    ),
    "where and add": (
        block("x1 = Where(keep, x, ninf) y = Add(x1, b)", f"{PADDING}, float[S,T] b"),
        [(KEEP, "keep"), (BIAS, "b")],
    ),
    "bool behind a cast and new axes": (
        block(
            """b = Where(rows, zero, ninf) c = Cast<to=10>(b) u = Unsqueeze(c, one) d = Cast<to=1>(u)
            e = Unsqueeze(d, one) y = Add(x, e)""",
            f"{PLAIN_INPUTS}, bool[B,T] rows",
            f"{INF}, int64[1] one = {{1}}",
        ),
        [(KEEP, "rows")],
    ),
    "bool behind an expanded bias": (
        block(
            "b = Where(rows, ninf, zero) s = Shape(x) e = Expand(b, s) y = Add(x, e)",
            f"{PLAIN_INPUTS}, bool[S,T] rows",
        ),
        [(DROP, "rows")],
    ),
    "sum of a bias and a condition": (
        block(
            "b = Where(keep, zero, ninf) s = Add(b, bias) y = Add(x, s)",
            f"{PADDING}, float[S,T] bias",
        ),
        [(KEEP, "keep"), (BIAS, "bias")],
    ),
    "all true": (
        block("y = Where(yes, x, ninf)", PLAIN_INPUTS, f"{INF}, bool[1,1] yes = {{1}}"),
        [],
    ),
    "zeros": (
        block(
            "s = Shape(x) z = ConstantOfShape(s) n = Mul(z, half) y = Add(n, x)",
            PLAIN_INPUTS,
            f"{INF}, float half = {{0.5}}",
        ),
        [],
    ),
    "constant bias": (
        block(
            "y = Add(x, table)",
            "float[B,4,2,8] q, float[B,4,3,8] k, float[B,4,3,6] v",
            "float[2,3] table = {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}",
        ),
        [(BIAS, "table")],
    ),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_mask_terms(name: str) -> None:
    made, wanted = UNDERSTOOD[name]
    if name == "constant bias":
        made = replace(made, outputs="float[B,4,2,6] o")
    site = check_site(made.model())
    assert [(term.kind, term.tensor) for term in site.mask.terms] == wanted
    assert not site.mask.causal


@pytest.mark.parametrize(("fill", "said"), [(-1e4, -1e9), (-1e30, -1e30)])
def test_a_low_number_in_place_of_scores_swallows_them(fill: float, said: float) -> None:
    """In a row that sees nothing all scores are that one number: the scores themselves must not come through."""
    low = f"float low = {{{fill}}}"
    site = site_of(block("y = Where(keep, x, low)", constants=low).model())
    np.testing.assert_allclose(site.mask.terms[0].fill, said, rtol=1e-6)


REFUSED = {
    "fill that does not mask": (
        block("y = Where(keep, x, f)", constants="float f = {-5.0}"),
        "'n2' puts -5 in place of scores",
    ),
    "positive fill": (
        block("y = Where(keep, x, f)", constants="float f = {inf}"),
        "'n2' puts inf in place of scores",
    ),
    "fill that is no number": (
        block("y = Where(keep, x, f)", constants="float f = {nan}"),
        "'n2' puts nan in place of scores",
    ),
    "select of two scores": (
        block("z = MatMul(q, kt) y = Where(keep, x, z)"),
        "'n3' selects between two computed values",
    ),
    "both branches constant": (
        block("y = Where(keep, zero, ninf)", f"{PLAIN_INPUTS}, bool[B,4,S,T] keep"),
        "which no node computes",
    ),
    "two products": (
        block("z = MatMul(q, kt) y = Add(x, z)"),
        "both operands of 'n3' are products",
    ),
    "more rows than queries": (
        block(
            "y = Add(x, bias)",
            "float[B,4,1,8] q, float[B,4,T,8] k, float[B,4,T,6] v, float[M,T] bias",
        ),
        "stretches the scores at node 'n2'",
    ),
    "more batches than queries": (
        block(
            "y = Add(x, bias)",
            "float[1,4,S,8] q, float[1,4,T,8] k, float[1,4,T,6] v, float[N,1,S,T] bias",
        ),
        "stretches the scores at node 'n2'",
    ),
    "more heads than queries": (
        block(
            "y = Add(x, bias)",
            "float[B,1,S,8] q, float[B,1,T,8] k, float[B,1,T,6] v, float[1,3,S,T] bias",
        ),
        "stretches the scores at node 'n2'",
    ),
    "a fixed number of batches": (
        block("y = Where(k3, x, ninf)", f"{PLAIN_INPUTS}, bool[3,1,1,T] k3"),
        "stretches the scores at node 'n2'",
    ),
    "rank 5": (
        block("y = Add(x, bias)", f"{PLAIN_INPUTS}, float[1,B,1,S,T] bias"),
        "changes the rank of the scores at node 'n2'",
    ),
    "clip": (block("y = Clip(x, zero)", constants=LOW), "operator Clip (node 'n2')"),
    "foreign add": (
        Block(
            inputs=f"{PLAIN_INPUTS}, float[S,T] bias",
            mask="y = other.Add(x, bias)",
            domains=', "other": 1',
        ),
        "operator other::Add (node 'n2')",
    ),
    "attention sink": (
        Block(
            inputs=f"{PLAIN_INPUTS}, float[B,4,S,1] sink",
            mask="y = Concat <axis = -1> (x, sink)",
            softmax="p0 = Softmax <axis = -1> (y)",
            weights="w = Slice(p0, zero, minus, last)",
            constants="int64[1] zero = {0}, int64[1] minus = {-1}, int64[1] last = {3}",
        ),
        "the sink 'sink' is not one number per head",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_mask_is_refused(name: str) -> None:
    made, reason = REFUSED[name]
    model = made.model()
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    refusal = refusal_of(model)
    assert reason in refusal.reason or "sink" in refusal.hint, refusal


FIXED = "float[2,4,3,8] q, float[2,4,5,8] k, float[2,4,5,6] v"
PADDED = "int64[4] pads = {0, 0, 0, 2}, int64[2] end = {0, 2}, int64[1] last = {-1}, int64[4] left = {0, 1, 0, 1}"


def padded(pad: str, inputs: str = f"{FIXED}, float[3,3] short") -> Block:
    """A block whose bias is filled up to five keys."""
    constants = f"{INF}, {PADDED}, int64[4] more = {{0, 0, 0, -1}}"
    made = block(f"b = {pad} y = Add(x, b)", inputs, constants)
    return replace(made, outputs="float[2,4,3,6] o", opset=18)


@pytest.mark.parametrize("pad", ["Pad(short, pads, ninf)", "Pad(short, end, ninf, last)"])
def test_bias_filled_up_with_hidden_keys(pad: str) -> None:
    site = check_site(padded(pad).model(), {})
    assert site.mask.terms == (MaskTerm("short", BIAS, fewer_keys=True),)


def test_condition_filled_up_with_hidden_keys() -> None:
    made = padded("Identity(c)", f"{FIXED}, bool[3,3] few")
    nodes = "c = Where(few, zero, ninf) b = Pad(c, pads, ninf) y = Add(x, b)"
    site = check_site(replace(made, mask=nodes).model(), {})
    assert site.mask.terms == (MaskTerm("few", KEEP, fewer_keys=True),)


OTHERWISE = {
    "with open keys": "Pad(short, pads, zero)",
    "on the left": "Pad(short, left, ninf)",
    "by copies": 'Pad<mode="edge">(short, pads, ninf)',
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_bias_filled_up_otherwise_stays_as_it_is(name: str) -> None:
    site = check_site(padded(OTHERWISE[name]).model(), {})
    assert site.mask.terms == (MaskTerm("b", BIAS),)


@pytest.mark.parametrize(
    ("mask", "factors"),
    [
        ("x1 = Add(x, bias) y = Add(bias, x1)", {"bias": 2.0}),
        ("sum = Add(bias, bias) y = Add(x, sum)", {"bias": 2.0}),
        ("sum = Add(bias, more) x1 = Add(x, sum) y = Add(x1, bias)", {"bias": 2.0, "more": 1.0}),
        ("x1 = Add(x, bias) y = Sub(x1, bias)", {"bias": 1.0, "bias ": -1.0}),
    ],
)
def test_a_bias_that_is_added_twice_counts_twice(mask: str, factors: dict[str, float]) -> None:
    inputs = f"{PLAIN_INPUTS}, float[B,1,S,T] bias, float[1,4,S,T] more"
    site = check_site(block(mask, inputs).model())
    assert [(term.tensor, term.factor) for term in site.mask.terms] == [
        (name.strip(), factor) for name, factor in factors.items()
    ]


def test_zeros_in_merged_axes() -> None:
    """What exporters write for a product that is added to nothing."""
    merged = """int64[3] three = {8, -1, 8}, int64[3] values = {8, -1, 6}, int64[4] four = {2, 4, -1, 6},
        float half = {0.5}"""
    made = Block(
        inputs="float[2,4,S,8] q4, float[2,4,T,8] k4, float[2,4,T,6] v4",
        constants=merged,
        before="q = Reshape(q4, three) k = Reshape(k4, three) v = Reshape(v4, values)",
        keys="kt = Transpose<perm=[0,2,1]>(k)",
        mask="s = Shape(x) z = ConstantOfShape(s) n = Mul(z, half) y = Add(n, x)",
        product="o3 = MatMul(w, v) o = Reshape(o3, four)",
        outputs="float[2,4,S,6] o",
    )
    site = check_site(made.model())
    assert (site.num_heads, site.mask) == (4, Mask())
