"""Which tensor is Q, K or V behind transposes, reshapes and repeats; B, S, T are symbolic unless a test fixes them."""

from collections.abc import Mapping

import pytest

from qfa_passes.core.site import AttentionSite
from qfa_passes.core.view import permute
from tests.match.blocks import Block, refusal_of
from tests.match.oracle import check_site

SHAPES = """int64[4] split_q = {0, 0, 4, 8}, int64[4] split_k = {0, 0, 2, 8}, int64[4] split_v = {0, 0, 2, 6},
    int64[1] a2 = {2}, int64[1] a3 = {3}, int64[1] a0 = {0}, int64[1] a1 = {1},
    int64[1] n2 = {2}, int64[1] n4 = {4}, int64[1] n8 = {8}, int64[1] n6 = {6},
    int64[1] m1 = {-1}, int64[1] one = {1}"""
PACKED = "float[B,S,32] q3, float[B,T,16] k3, float[B,T,12] v3"
SPLIT = "q4 = Reshape(q3, split_q) k4 = Reshape(k3, split_k) v4 = Reshape(v3, split_v)"
HEADS = """q = Transpose<perm=[0,2,1,3]>(q4) kh = Transpose<perm=[0,2,1,3]>(k4) vh = Transpose<perm=[0,2,1,3]>(v4)"""


def repeated(name: str, source: str, channels: str, tail: str = "one, n2, one, one") -> str:
    """repeat_kv: (B, 2, T, C) -> (B, 4, T, C), each head twice in a row."""
    return f"""
        {name}_u = Unsqueeze({source}, a2) {name}_f = Concat<axis=0>(one, {tail})
        {name}_e = Expand({name}_u, {name}_f)
        {name}_s = Shape({source}) {name}_b = Slice({name}_s, a0, a1) {name}_t = Slice({name}_s, a2, a3)
        {name}_g = Concat<axis=0>({name}_b, n4, {name}_t, {channels}) {name} = Reshape({name}_e, {name}_g)
    """


def grouped(
    before: str = "", keys: str = "kt = Transpose<perm=[0,1,3,2]>(k)", **more: str
) -> Block:
    """A block of 4 query heads over 2 key heads, from packed projections."""
    return Block(
        inputs=more.pop("inputs", PACKED),
        constants=SHAPES,
        before=f"{SPLIT} {HEADS} {before}",
        keys=keys,
        **more,
    )


REPEAT = repeated("k", "kh", "n8") + repeated("v", "vh", "n6")


def test_grouped_heads() -> None:
    site = check_site(grouped(REPEAT).model())
    assert (site.num_heads, site.kv_num_heads) == (4, 2)
    assert (site.key.tensor, site.value.tensor) == ("kh", "vh")


def test_heads_that_take_turns_are_not_shared_in_a_row() -> None:
    """Repeating the whole stack makes query head h read key head h % 2; the operator reads h // 2."""
    tiled = """
        kr = Concat<axis=1>(kh, kh) vr = Concat<axis=1>(vh, vh)
        k = Identity(kr) v = Identity(vr)
    """
    site = check_site(grouped(tiled).model())
    assert site.kv_num_heads == 4
    expanded = REPEAT.replace("(kh, a2)", "(kh, a1)").replace("(vh, a2)", "(vh, a1)")
    for name in ("k", "v"):
        expanded = expanded.replace(
            f"{name}_f = Concat<axis=0>(one, one, n2, one, one)",
            f"{name}_f = Concat<axis=0>(one, n2, one, one, one)",
        )
    site = check_site(grouped(expanded).model())
    assert (site.kv_num_heads, site.key.tensor, site.value.tensor) == (4, "k", "v")


def test_one_key_head_for_all() -> None:
    shared = "float[B,4,S,8] q, float[B,1,T,8] k, float[B,1,T,6] v"
    site = check_site(Block(inputs=shared).model())
    assert (site.num_heads, site.kv_num_heads) == (4, 1)


def test_one_key_head_expanded() -> None:
    shared = "float[B,4,S,8] q, float[B,1,T,8] k1, float[B,1,T,6] v1"
    before = "k = Expand(k1, heads) v = Expand(v1, heads)"
    block = Block(inputs=shared, constants="int64[4] heads = {1, 4, 1, 1}", before=before)
    site = check_site(block.model())
    assert (site.kv_num_heads, site.key.tensor, site.value.tensor) == (1, "k1", "v1")


TRANSPOSED = {
    "last two axes": "k = Identity(kk) kt = Transpose<perm=[0,1,3,2]>(k)",
    "at once from the projection": "kt = Transpose<perm=[0,2,3,1]>(k44)",
    "in three dimensions": """
        ks = Shape(kk) kb = Slice(ks, a0, a1) kn = Slice(ks, a2, a3) flat = Concat<axis=0>(m1, kn, n8)
        k3d = Reshape(kk, flat) kt3 = Transpose<perm=[0,2,1]>(k3d)
        back = Concat<axis=0>(kb, n4, n8, kn) kt = Reshape(kt3, back)
    """,
    "twice there and back": """
        r1 = Transpose<perm=[0,1,3,2]>(kk) r2 = Transpose<perm=[0,1,3,2]>(r1) kt = Transpose<perm=[0,1,3,2]>(r2)
    """,
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_keys(name: str) -> None:
    inputs = "float[B,4,S,8] q, float[B,T,32] k3, float[B,4,T,6] v"
    before = "k44 = Reshape(k3, split_q) kk = Transpose<perm=[0,2,1,3]>(k44)"
    block = Block(inputs=inputs, constants=SHAPES, before=before, keys=TRANSPOSED[name])
    site = check_site(block.model())
    assert (site.kv_num_heads, site.qk_channels) == (4, 8)


EQUAL = {"B": 8, "S": 8, "T": 8}
SQUARE_INPUTS = "float[8,8,8,8] q, float[8,8,8,8] k, float[8,8,8,8] v"
PERMS = [(0, 1, 3, 2), (0, 2, 3, 1), (1, 0, 3, 2), (3, 1, 0, 2), (0, 1, 2, 3), (2, 0, 3, 1)]


@pytest.mark.parametrize("perm", PERMS)
def test_axes_of_equal_extent_are_not_confused(perm: tuple[int, ...]) -> None:
    block = Block(
        inputs=SQUARE_INPUTS,
        keys=f"kt = Transpose<perm={list(perm)}>(k)",
        outputs="float[8,8,8,8] o",
    )
    site = check_site(block.model(), EQUAL)
    batch, head, channel, row = perm
    assert site.key.views == permute(batch, head, row, channel)


CROSSING = {
    "rows into heads": "int64[4] to = {8, 64, 1, 8}",
    "rows into channels": "int64[4] to = {8, 8, 4, 16}",
    "heads into batch": "int64[4] to = {16, 4, 8, 8}",
    "halves of rows": "int64[4] to = {8, 16, 4, 8}",
}


@pytest.mark.parametrize("name", CROSSING)
def test_reshapes_that_cut_across_axes_stay_outside(name: str) -> None:
    """The reshaped tensor itself is the operand then."""
    shape = CROSSING[name].partition("{")[2].rstrip("}").split(", ")
    dims = ",".join(shape)
    block = Block(
        inputs=f"float[{dims}] q, float[8,8,8,8] k8, float[{dims}] v",
        constants=CROSSING[name],
        before="k = Reshape(k8, to)",
        outputs=f"float[{dims}] o",
    )
    site = check_site(block.model(), EQUAL)
    assert site.key.tensor == "k"


def test_repeated_queries_stay_outside() -> None:
    """They are operands as they are, and heads count as batches."""
    block = Block(
        inputs="float[B,1,S,8] q1, float[B,4,T,8] k, float[B,4,T,6] v",
        constants="int64[4] heads = {1, 4, 1, 1}",
        before="q = Expand(q1, heads)",
    )
    site = check_site(block.model())
    assert site.query.tensor == "q"


REFUSED: Mapping[str, tuple[Block, str]] = {
    "keys of one batch": (
        Block(inputs="float[B,4,S,8] q, float[1,4,T,8] k, float[1,4,T,6] v"),
        "Q has batch B and K has batch 1",
    ),
    "queries of one batch": (
        Block(inputs="float[1,4,S,8] q, float[B,4,T,8] k, float[B,4,T,6] v"),
        "Q has batch 1 and K has batch B",
    ),
    "values of another batch": (
        Block(inputs="float[B,4,S,8] q, float[B,4,T,8] k, float[C,4,T,6] v"),
        "Q has batch B and V has batch C",
    ),
    "stretched batch": (
        Block(
            inputs="float[B,4,S,8] q, float[B,4,T,8] k1, float[B,4,T,6] v, float[N] n",
            constants="int64[3] ones = {1, 1, 1}",
            before="s = Shape(n) to = Concat<axis=0>(s, ones) k = Expand(k1, to)",
        ),
        "Q has batch B and K has batch",
    ),
    "K and V of different heads": (
        Block(inputs="float[B,4,S,8] q, float[B,4,T,8] k, float[B,1,T,6] v"),
        "K has 4 heads and V has 1",
    ),
    "heads of a symbolic number": (
        Block(inputs="float[B,H,S,8] q, float[B,H,T,8] k, float[B,H,T,6] v"),
        "number of heads of 'n1' is not known",
    ),
    "channels of a symbolic number": (
        Block(inputs="float[B,4,S,D] q, float[B,4,T,D] k, float[B,4,T,6] v"),
        "layout of Q",
    ),
    "too many channels": (
        Block(inputs="float[B,4,S,2048] q, float[B,4,T,2048] k, float[B,4,T,6] v"),
        "more than 1024 channels",
    ),
    "double": (
        Block(inputs="double[B,4,S,8] q, double[B,4,T,8] k, double[B,4,T,6] v"),
        "expected float32, float16 or bfloat16",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_layouts_are_refused(name: str) -> None:
    block, reason = REFUSED[name]
    model = block.model()
    model.graph.output[0].ClearField("type")
    assert reason in refusal_of(model).reason


def test_float16() -> None:
    half = "float16[B,4,S,8] q, float16[B,4,T,8] k, float16[B,4,T,6] v"
    block = Block(inputs=half, outputs="float16[B,4,S,6] o")
    site: AttentionSite = check_site(block.model(), tolerance=2e-2)
    assert site.dtype == 10


PAIR = "{0}q = QuantizeLinear({0}, step, zero) {0}d = DequantizeLinear({0}q, step, zero)"
CODES = "float step = {0.0625}, uint8 zero = {128}, float half = {0.5}"


def quantized(before: str, query: str = "qd", constants: str = CODES) -> Block:
    """A block whose Q runs through Q/DQ."""
    return Block(constants=constants, before=before, scores=f"x = MatMul({query}, kt)")


def test_quantized_operand() -> None:
    site = check_site(quantized(PAIR.format("q")).model(), tolerance=0.1)
    assert (site.query.tensor, site.query.scale) == ("q", (0.0625,))


def test_factor_above_a_pair_shrinks_its_step() -> None:
    site = check_site(
        quantized("qs = Mul(q, half) " + PAIR.format("qs"), "qsd").model(), tolerance=0.1
    )
    assert (site.query.tensor, site.scale) == ("q", 0.5)
    assert site.query.scale == (0.125,)


def test_factor_below_a_pair_leaves_its_step() -> None:
    site = check_site(
        quantized(PAIR.format("q") + " qs = Mul(qd, half)", "qs").model(), tolerance=0.1
    )
    assert (site.query.tensor, site.scale, site.query.scale) == ("q", 0.5, (0.0625,))


NOT_ABSORBED = {
    "two pairs": (PAIR.format("q") + " " + PAIR.format("qd"), "qdd", CODES, "qd"),
    "two steps": (
        "qq = QuantizeLinear(q, step, zero) qd = DequantizeLinear(qq, other, zero)",
        "qd",
        CODES + ", float other = {0.125}",
        "qd",
    ),
    "off centre": (PAIR.format("q"), "qd", CODES.replace("128", "100"), "qd"),
    "step that is computed": (
        "st = Abs(step) qq = QuantizeLinear(q, st, zero) qd = DequantizeLinear(qq, st, zero)",
        "qd",
        CODES,
        "qd",
    ),
}


@pytest.mark.parametrize("name", NOT_ABSORBED)
def test_other_pairs_stay_outside(name: str) -> None:
    before, query, constants, tensor = NOT_ABSORBED[name]
    model = quantized(before, query, constants).model()
    tolerance = 0.1 if name == "two pairs" else 1e-5  # one pair is absorbed
    assert check_site(model, tolerance=tolerance).query.tensor == tensor
