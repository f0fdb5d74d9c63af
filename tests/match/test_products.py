"""Products of any rank and direction: what stands in front of queries and keys is batch and heads."""

import pytest

from qfa_passes.core.site import AttentionSite, MaskKind
from tests.match.blocks import Block, refusal_of
from tests.match.oracle import check_site

MERGED = "float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,T,6] v"
SHAPES = """int64[3] flat8 = {-1, 0, 8}, int64[1] m1 = {-1}, int64[1] n4 = {4}, int64[1] n8 = {8}, int64[1] n6 = {6},
    int64[1] a0 = {0}, int64[1] a1 = {1}, int64[1] a2 = {2}, int64[1] a3 = {3}"""
FLAT = """
    qs = Shape(q) ks = Shape(k) b = Slice(qs, a0, a1) s = Slice(qs, a2, a3) t = Slice(ks, a2, a3)
    n = Mul(b, n4) qf = Concat<axis=0>(n, s, n8) kf = Concat<axis=0>(n, t, n8) vf = Concat<axis=0>(n, t, n6)
    q3 = Reshape(q, qf) k3 = Reshape(k, kf) v3 = Reshape(v, vf)
    nst = Concat<axis=0>(n, s, t) bhst = Concat<axis=0>(b, n4, s, t) bhsd = Concat<axis=0>(b, n4, s, n6)
"""


def merged(**parts: str) -> Block:
    """Batch and heads in one axis, as baddbmm and bmm want them."""
    defaults = {
        "inputs": MERGED,
        "constants": SHAPES,
        "before": FLAT,
        "keys": "kt = Transpose<perm=[0,2,1]>(k3)",
        "scores": "x = MatMul(q3, kt)",
        "product": "o = MatMul(w, v3)",
        "outputs": "float[N,S,6] o",
    }
    return Block(**{**defaults, **parts})


def test_merged_batch_and_heads() -> None:
    site = check_site(merged().model())
    assert (site.num_heads, site.query.tensor, site.query.views) == (4, "q", ())


def test_merged_and_taken_apart_again() -> None:
    block = merged(product="o3 = MatMul(w, v3) o = Reshape(o3, bhsd)", outputs="float[B,4,S,6] o")
    site = check_site(block.model())
    assert (site.num_heads, site.output) == (4, "o3")


MASKS = {
    "for all": ("float[S,T] m", "y = Add(x, m)"),
    "one row": ("float[1,1,T] m", "y = Add(x, m)"),
    "of each head, as bloom's": (
        "float[B,4,T] m",
        "ms = Concat<axis=0>(n, a1, t) m3 = Reshape(m, ms) y = Add(x, m3)",
    ),
    "of each score": ("float[B,4,S,T] m", "m3 = Reshape(m, nst) y = Add(x, m3)"),
    "in four axes": (
        "float[B,1,S,T] m",
        "x4 = Reshape(x, bhst) y4 = Add(x4, m) y = Reshape(y4, nst)",
    ),
    "bool in four axes": (
        "bool[B,1,1,T] m",
        "x4 = Reshape(x, bhst) y4 = Where(m, x4, low) y = Reshape(y4, nst)",
    ),
    "in both": (
        "float[B,1,S,T] m, float[1,S,T] m2",
        "z = Add(x, m2) x4 = Reshape(z, bhst) y4 = Add(x4, m) y = Reshape(y4, nst)",
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_of_merged_scores(name: str) -> None:
    inputs, mask = MASKS[name]
    block = merged(
        inputs=f"{MERGED}, {inputs}", constants=f"{SHAPES}, float low = {{-3.4e38}}", mask=mask
    )
    site = check_site(block.model())
    assert site.num_heads == 4
    assert site.mask.terms


def test_softmax_in_four_axes_between_merged_products() -> None:
    block = merged(mask="y = Reshape(x, bhst)", weights="w = Reshape(p, nst)")
    assert check_site(block.model()).num_heads == 4


def test_flattened_softmax() -> None:
    """As converters from operator sets before 13 write it."""
    block = merged(
        mask="y = Flatten<axis=2>(x)",
        softmax="p = Softmax<axis=1>(y)",
        weights="w = Reshape(p, nst)",
    )
    assert check_site(block.model()).num_heads == 4


def test_one_head_without_its_axis() -> None:
    block = Block(
        inputs="float[B,S,8] q, float[B,T,8] k, float[B,T,6] v, float[B,S,T] m",
        keys="kt = Transpose<perm=[0,2,1]>(k)",
        mask="y = Add(x, m)",
        outputs="float[B,S,6] o",
    )
    site = check_site(block.model())
    assert site.num_heads == 1


def test_one_head_and_no_batch() -> None:
    block = Block(
        inputs="float[S,8] q, float[T,8] k, float[T,6] v, float[S,T] m",
        keys="kt = Transpose<perm=[1,0]>(k)",
        mask="y = Add(x, m)",
        outputs="float[S,6] o",
    )
    site = check_site(block.model())
    assert site.num_heads == 1


WINDOWS = "float[B,5,3,S,8] q, float[B,5,3,T,8] k, float[B,5,3,T,6] v"


def test_windows_in_an_axis_of_their_own() -> None:
    block = Block(
        inputs=WINDOWS,
        keys="kt = Transpose<perm=[0,1,2,4,3]>(k)",
        outputs="float[B,5,3,S,6] o",
    )
    site = check_site(block.model())
    assert site.num_heads == 3


@pytest.mark.parametrize(
    ("mask", "heads"),
    [("5,1,S,T", 15), ("B,5,1,S,T", 3), ("3,S,T", 3), ("B,1,1,1,T", 3), ("1,5,3,1,1", 15)],
)
def test_masks_of_windows(mask: str, heads: int) -> None:
    """Where a mask tells windows apart, windows and heads together count as heads."""
    block = Block(
        inputs=f"{WINDOWS}, float[{mask}] m",
        keys="kt = Transpose<perm=[0,1,2,4,3]>(k)",
        mask="y = Add(x, m)",
        outputs="float[B,5,3,S,6] o",
    )
    site = check_site(block.model())
    assert site.num_heads == heads


def test_windows_merged_with_the_batch_and_masked_apart() -> None:
    """Swin: (B * windows, H, S, T), seen as (B, windows, H, S, T) to add the mask of shifted windows."""
    shapes = """int64[1] n5 = {5}, int64[1] n3 = {3}, int64[1] a0 = {0}, int64[1] a1 = {1}, int64[1] a2 = {2},
        int64[1] a3 = {3}, int64[1] n8 = {8}, int64[1] n6 = {6}"""
    before = """
        qs = Shape(q5) ks = Shape(k5) b = Slice(qs, a0, a1) n = Mul(b, n5)
        s = Slice(qs, a3, e3) t = Slice(ks, a3, e3)
        qf = Concat<axis=0>(n, n3, s, n8) kf = Concat<axis=0>(n, n3, t, n8) vf = Concat<axis=0>(n, n3, t, n6)
        q = Reshape(q5, qf) k = Reshape(k5, kf) v = Reshape(v5, vf)
        apart = Concat<axis=0>(b, n5, n3, s, t) merged = Concat<axis=0>(n, n3, s, t)
    """
    block = Block(
        inputs=WINDOWS.replace(" q", " q5").replace(" k", " k5").replace(" v", " v5")
        + ", float[1,5,1,S,T] shifted, float[1,3,S,T] places",
        constants=f"{shapes}, int64[1] e3 = {{4}}",
        before=before,
        mask="z = Add(x, places) x5 = Reshape(z, apart) y5 = Add(x5, shifted) y = Reshape(y5, merged)",
        outputs="float[N,3,S,6] o",
    )
    site = check_site(block.model())
    assert site.num_heads == 15


def test_bias_of_rows_and_columns() -> None:
    """SAM: queries and keys as (height, width), each with a bias of its own."""
    shapes = "int64[5] wide = {-1, 2, 3, 2, 3}, int64[3] back = {-1, 6, 6}"
    block = Block(
        inputs="float[B,6,8] q, float[B,6,8] k, float[B,6,6] v, float[B,2,3,2,1] high, float[B,2,3,1,3] broad",
        constants=shapes,
        keys="kt = Transpose<perm=[0,2,1]>(k)",
        mask="x5 = Reshape(x, wide) y1 = Add(x5, high) y2 = Add(y1, broad) y = Reshape(y2, back)",
        outputs="float[B,6,6] o",
    )
    site = check_site(block.model())
    assert [len(term.views) > 0 for term in site.mask.terms] == [True, True]


TURNED = {
    "scores": Block(
        scores="xt = MatMul(k, qt) x = Transpose<perm=[0,1,3,2]>(xt)",
        before="qt = Transpose<perm=[0,1,3,2]>(q)",
        keys="",
    ),
    "scores, masked before": Block(
        inputs="float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,T,6] v, float[B,1,T,S] m",
        before="qt = Transpose<perm=[0,1,3,2]>(q)",
        keys="",
        scores="xt = MatMul(k, qt) xm = Add(xt, m) x = Transpose<perm=[0,1,3,2]>(xm)",
    ),
    "scores, keys masked before": Block(
        inputs="float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,T,6] v, bool[B,1,T,1] m",
        constants="float low = {-1e9}",
        before="qt = Transpose<perm=[0,1,3,2]>(q)",
        keys="",
        scores="xt = MatMul(k, qt) xm = Where(m, xt, low) x = Transpose<perm=[0,1,3,2]>(xm)",
    ),
    "output": Block(
        inputs="float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,6,T] vt",
        weights="w = Transpose<perm=[0,1,3,2]>(p)",
        product="o = MatMul(vt, w)",
        outputs="float[B,4,6,S] o",
    ),
    "both, one head": Block(
        inputs="float[B,8,S] q, float[B,8,T] k, float[B,6,T] v",
        before="qt = Transpose<perm=[0,2,1]>(q)",
        keys="",
        scores="x = MatMul(qt, k)",
        weights="w = Transpose<perm=[0,2,1]>(p)",
        product="o = MatMul(v, w)",
        outputs="float[B,6,S] o",
    ),
}


@pytest.mark.parametrize("name", TURNED)
def test_turned_products(name: str) -> None:
    site: AttentionSite = check_site(TURNED[name].model())
    assert (site.qk_channels, site.v_channels) == (8, 6)


def test_shared_heads_by_broadcasting() -> None:
    """(B, Hkv, G, S, D) against (B, Hkv, 1, D, T)."""
    block = Block(
        inputs="float[B,2,3,S,8] q, float[B,2,1,T,8] k, float[B,2,1,T,6] v",
        keys="kt = Transpose<perm=[0,1,2,4,3]>(k)",
        outputs="float[B,2,3,S,6] o",
    )
    site = check_site(block.model())
    assert site.num_heads == 3 * site.kv_num_heads


REPEATS = {
    "tile": "u = Unsqueeze(kh, a2) e = Tile(u, tiles) k = Reshape(e, to)",
    "concat": "u = Unsqueeze(kh, a2) e = Concat<axis=2>(u, u) k = Reshape(e, to)",
    "gather": "k = Gather<axis=1>(kh, pairs)",
}


@pytest.mark.parametrize("name", REPEATS)
def test_repeated_keys(name: str) -> None:
    block = Block(
        inputs="float[2,4,S,8] q, float[2,2,7,8] kh",
        constants="""int64[1] a2 = {2}, int64[5] tiles = {1, 1, 2, 1, 1}, int64[4] to = {2, 4, 7, 8},
            int64[4] pairs = {0, 0, 1, 1}""",
        before=REPEATS[name],
        product="o = MatMul(w, k)",
        outputs="float[2,4,S,8] o",
    )
    site = check_site(block.model())
    assert (site.kv_num_heads, site.key.tensor) == (2, "kh")


@pytest.mark.parametrize("order", ["0, 1, 0, 1", "0, 0, 0, 1", "1, 1, 0, 0"])
def test_gathered_heads_in_another_order_stay_outside(order: str) -> None:
    block = Block(
        inputs="float[2,4,S,8] q, float[2,2,7,8] kh",
        constants=f"int64[4] pairs = {{{order}}}",
        before="k = Gather<axis=1>(kh, pairs)",
        product="o = MatMul(w, k)",
        outputs="float[2,4,S,8] o",
    )
    site = check_site(block.model())
    assert (site.kv_num_heads, site.key.tensor) == (4, "k")


def test_one_key_for_a_batch_of_fixed_size() -> None:
    block = Block(
        inputs="float[3,4,S,8] q, float[1,4,T,8] k, float[3,4,T,6] v", outputs="float[3,4,S,6] o"
    )
    check_site(block.model())


def test_open_batches_that_meet_in_a_product_are_one() -> None:
    """Keys of an input whose axes nobody named, or an exporter numbered."""
    for batch in ("", "k_dynamic_axes_1"):
        model = Block(outputs="float[N,4,S,6] o").model()
        for value in (model.graph.input[1], model.graph.input[2]):
            extent = value.type.tensor_type.shape.dim[0]
            extent.ClearField("dim_param")
            if batch:
                extent.dim_param = batch
        check_site(model, {batch or "B": 2, "": 2})


def test_factor_on_the_bias() -> None:
    block = Block(
        inputs=f"{MERGED}, float[B,1,1,T] m",
        constants="float half = {0.5}",
        mask="z = Add(x, m) y = Mul(z, half)",
    )
    (term,) = check_site(block.model()).mask.terms
    assert (term.kind, term.factor) == (MaskKind.BIAS, 0.5)


REFUSED = {
    "keys under the softmax are mixed": (
        merged(
            mask="y = Reshape(x, mix)",
            constants=f"{SHAPES}, int64[2] mix = {{-1, 12}}",
            weights="w = Reshape(p, nst)",
        ),
        "",
    ),
    "weights turned": (
        Block(
            weights="w = Transpose<perm=[0,1,3,2]>(p)",
            inputs="float[B,4,S,8] q, float[B,4,S,8] k, float[B,4,S,6] v",
        ),
        "over an axis that is not the keys",
    ),
    "heads and batch change places": (
        Block(
            inputs="float[4,4,S,8] q, float[4,4,T,8] k, float[4,4,T,6] v",
            weights="w = Transpose<perm=[1,0,2,3]>(p)",
            outputs="float[4,4,S,6] o",
        ),
        "over an axis that is not the keys",
    ),
    "weights cut into other rows": (
        Block(
            inputs="float[B,4,6,8] q, float[B,4,6,8] k, float[B,4,6,6] v",
            constants="int64[4] other = {0, 6, 4, 6}",
            weights="w0 = Reshape(p, other) w = Reshape(w0, again)".replace("again", "other"),
            product="o = MatMul(w, vv)",
            before="vv = Reshape(v, other)",
            outputs="float[B,6,4,6] o",
        ),
        "",
    ),
    "mask of windows whose number is open": (
        Block(
            inputs="float[B,W,3,S,8] q, float[B,W,3,T,8] k, float[B,W,3,T,6] v, float[W,1,S,T] m",
            keys="kt = Transpose<perm=[0,1,2,4,3]>(k)",
            mask="y = Add(x, m)",
            outputs="float[B,W,3,S,6] o",
        ),
        "no view leads from (B, H, S, Dv)",
    ),
}


def test_softmax_over_the_rows_of_a_square_product() -> None:
    """Then the left operand is K, and the right one Q."""
    square = "float[B,4,S,8] q, float[B,4,S,8] k, float[B,4,S,6] v"
    block = Block(inputs=square, mask="y = Transpose<perm=[0,1,3,2]>(x)")
    site = check_site(block.model())
    assert (site.query.tensor, site.key.tensor) == ("k", "q")


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_attention_in_any_layout(name: str) -> None:
    block, reason = REFUSED[name]
    model = block.model()
    model.graph.output[0].ClearField("type")
    assert reason in refusal_of(model).reason
