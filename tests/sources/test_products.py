"""Products of attention as Einsum, FusedMatMul or Gemm, and BiasSoftmax."""

import itertools

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from qfa_passes.core.site import AttentionSite, Refusal
from qfa_passes.normalize.einsum import Product, read_product
from tests.sources.nodes import TOLERANCE, Array, find, floats, normalized, run

SIZES = {"b": 2, "h": 3, "q": 5, "k": 7, "d": 8, "e": 6, "g": 4, "n": 3}


def product_of(equation: str, left: Array, right: Array) -> Array:
    """The einsum as the plan says."""
    plan = read_product(equation, (left.ndim, right.ndim))
    assert isinstance(plan, Product)
    first, second = (right, left) if plan.swapped else (left, right)
    first = np.expand_dims(first.transpose(plan.left_perm), plan.left_new)
    second = np.expand_dims(second.transpose(plan.right_perm), plan.right_new)
    result = first @ second
    return (result if plan.row else result.squeeze(-2)).transpose(plan.result_perm)


EQUATIONS = (
    "bhqd,bhkd->bhqk",
    "bqhd,bkhd->bhqk",
    "bhqk,bkhd->bqhd",
    "bhqk,bhke->bhqe",
    "bkhd,bqhd->bhqk",  # keys first
    "bkhd,bhqk->bqhd",
    "bqhd,bkhd->bqhk",
    "bqhd,bkhd->hqkb",
    "bhqd,bkd->bhqk",  # one key head for all
    "bhgqd,bhkd->bhgqk",
    "bhgqk,bhke->bqhge",
    "bhd,bhkd->bhk",  # one query
    "bhk,bhkd->bhd",
    "qd,kd->qk",
    "qd,kd",
    "...qd,...kd->...qk",
    "...qd,kd->...qk",
    "b...d,bk...d->b...k",
    " b h q d , b h k d -> b h q k ",
    "qd,kd->kq",
)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum_as_product(equation: str) -> None:
    terms = equation.replace(" ", "").split("->")[0].replace("...", "hg").split(",")
    if equation == "...qd,kd->...qk":
        terms = ["hgqd", "kd"]
    left, right = (floats(*(SIZES[letter] for letter in term), seed=len(term)) for term in terms)
    expected = np.einsum(equation.replace(" ", ""), left, right)
    np.testing.assert_allclose(product_of(equation, left, right), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "equation",
    (
        "bhqd,bhkd->bhq",  # sums more than the shared axis
        "bhqd,bhqd->bhqd",  # no sum
        "bqhd,hde->bqe",  # sums two axes
        "bhqd->bhdq",
        "bhqd,bhkd,bh->bhqk",
        "bhqq,bhqd->bhqd",
        "bd,bd->b",
        "bqd,bkd->bqkz",
        "bqd,bkd->bqqk",
    ),
)
def test_other_einsums(equation: str) -> None:
    terms = equation.split("->")[0].split(",")
    assert read_product(equation, (len(terms[0]), len(terms[-1]))) is None


def test_random_einsums() -> None:
    """Every order of axes on both sides and in the result."""
    generator = np.random.default_rng(0)
    orders = list(itertools.permutations("bhqd")), list(itertools.permutations("bhkd"))
    results = list(itertools.permutations("bhqk"))
    for _ in range(100):
        left, right, result = (
            "".join(choices[generator.integers(len(choices))]) for choices in (*orders, results)
        )
        equation = f"{left},{right}->{result}"
        operands = [floats(*(SIZES[letter] for letter in term)) for term in (left, right)]
        expected = np.einsum(equation, *operands)
        np.testing.assert_allclose(product_of(equation, *operands), expected, rtol=1e-4, atol=1e-5)


def model(inputs: str, body: str, output: str = "float[B,H,S,T] o", opset: int = 17) -> ModelProto:
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1]>'
        f" block ({inputs}) => ({output}) <float scale = {{0.3}}> {{ {body} }}"
    )
    for number, node in enumerate(proto.graph.node):
        node.name = f"n{number}"
    return proto


def check(proto: ModelProto, feeds: dict[str, Array]) -> AttentionSite:
    """The same numbers, MatMul and Softmax only, and one site."""
    result = normalized(proto)
    left = {node.op_type for node in result.graph.node}
    assert not left & {"Einsum", "FusedMatMul", "Gemm", "BiasSoftmax"}, left
    for before, after in zip(run(proto, feeds), run(result, feeds), strict=True):
        np.testing.assert_allclose(after, before, rtol=TOLERANCE, atol=TOLERANCE)
    (site,) = find(result)
    assert isinstance(site, AttentionSite), site
    return site


ROWS_FIRST = "float[B,S,3,8] q, float[B,T,3,8] k, float[B,T,3,6] v, float[B,1,1,T] m"
HEADS_FIRST = "float[B,3,S,8] q, float[B,3,T,8] k, float[B,3,T,6] v, float[B,1,1,T] m"


def feeds(rows_first: bool) -> dict[str, Array]:
    shapes = [(2, 5, 3, 8), (2, 7, 3, 8), (2, 7, 3, 6)]
    values = [floats(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    if not rows_first:
        values = [np.ascontiguousarray(value.transpose(0, 2, 1, 3)) for value in values]
    return {**dict(zip("qkv", values, strict=True)), "m": floats(2, 1, 1, 7)}


@pytest.mark.parametrize(
    "scores,weights",
    (
        ("bqhd,bkhd->bhqk", "bhqk,bkhd->bqhd"),
        ("zcxw,zyxw->zxcy", "zxcy,zyxw->zcxw"),
        ("bqhd,bkhd->bhqk", "bhqk,bkhd->bhqd"),
    ),
)
def test_einsum(scores: str, weights: str) -> None:
    body = f"""
        s = Einsum <equation = "{scores}"> (q, k) x = Mul(s, scale) y = Add(x, m) p = Softmax <axis = -1> (y)
        o = Einsum <equation = "{weights}"> (p, v)
    """
    site = check(model(ROWS_FIRST, body, "float[B,?,?,6] o"), feeds(rows_first=True))
    assert (site.num_heads, site.qk_channels, site.v_channels) == (3, 8, 6)
    assert site.scale == pytest.approx(0.3)
    assert len(site.mask.terms) == 1


def test_keys_first_einsum() -> None:
    body = """
        s = Einsum <equation = "aecd,abcd->acbe"> (k, q) x = Mul(s, scale) y = Add(x, m) p = Softmax <axis = -1> (y)
        o = Einsum <equation = "acbe,aecd->abcd"> (p, v)
    """
    site = check(model(ROWS_FIRST, body, "float[B,S,3,6] o"), feeds(rows_first=True))
    assert (site.num_heads, site.qk_channels, site.v_channels) == (3, 8, 6)


@pytest.mark.parametrize("alpha", (1.0, 0.25))
@pytest.mark.parametrize("keys_transposed", (False, True))
def test_fused_matmul(alpha: float, keys_transposed: bool) -> None:
    body = f"""
        s = com.microsoft.FusedMatMul <alpha = {alpha}, transB = 1> (q, k) y = Add(s, m)
        p = Softmax <axis = -1> (y) o = com.microsoft.FusedMatMul (p, v)
    """
    if keys_transposed:
        body = body.replace("transB = 1", "transB = 0").replace("(q, k)", "(q, kt)")
        body = f"kt = Transpose <perm = [0, 1, 3, 2]> (k) {body}"
    site = check(model(HEADS_FIRST, body, "float[B,3,S,6] o"), feeds(rows_first=False))
    assert site.scale == pytest.approx(alpha)


def test_fused_matmul_of_transposed_queries() -> None:
    body = """
        qt = Transpose <perm = [0, 1, 3, 2]> (q)
        s = com.microsoft.FusedMatMul <alpha = 0.25, transA = 1, transB = 1> (qt, k) y = Add(s, m)
        p = Softmax <axis = -1> (y) o = com.microsoft.FusedMatMul <alpha = 1.0> (p, v)
    """
    site = check(model(HEADS_FIRST, body, "float[B,3,S,6] o"), feeds(rows_first=False))
    assert site.scale == pytest.approx(0.25)


def test_scaled_weights_are_not_guessed() -> None:
    """A factor on P V is none of the operator's: the block is refused or its output scaled, never the factor lost."""
    body = """
        s = com.microsoft.FusedMatMul <transB = 1> (q, k) p = Softmax <axis = -1> (s)
        o = com.microsoft.FusedMatMul <alpha = 0.5> (p, v)
    """
    proto, data = model(HEADS_FIRST, body, "float[B,3,S,6] o"), feeds(rows_first=False)
    result = normalized(proto)
    np.testing.assert_allclose(run(result, data)[0], run(proto, data)[0], rtol=1e-5, atol=1e-5)
    for site in find(result):
        assert not isinstance(site, AttentionSite) or site.output != "o"


def test_gemm() -> None:
    inputs = "float[S,8] q, float[T,8] k, float[T,6] v, float[S,T] m"
    body = """
        s = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (q, k, m) p = Softmax <axis = -1> (s) o = Gemm (p, v)
    """
    proto = model(inputs, body, "float[S,6] o")
    data = {"q": floats(5, 8), "k": floats(7, 8), "v": floats(7, 6), "m": floats(5, 7)}
    result = normalized(proto)
    assert not {node.op_type for node in result.graph.node} & {"Gemm"}
    np.testing.assert_allclose(run(result, data)[0], run(proto, data)[0], rtol=1e-5, atol=1e-5)
    (site,) = find(result)
    assert isinstance(site, AttentionSite)
    assert (site.num_heads, site.scale, len(site.mask.terms)) == (1, 0.5, 1)


def test_bias_softmax() -> None:
    """The runtime's CPU provider has no kernel for it: softmax(x + bias) is what its schema says."""
    inner = "kt = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul(q, kt)"
    fused = (
        "p = com.microsoft.BiasSoftmax <axis = 3, is_inner_broadcast = 1> (s, m) o = MatMul(p, v)"
    )
    plain = "y = Add(s, m) p = Softmax <axis = -1> (y) o = MatMul(p, v)"
    output = "float[B,3,S,6] o"
    proto, data = model(HEADS_FIRST, f"{inner} {fused}", output), feeds(rows_first=False)
    expected = run(model(HEADS_FIRST, f"{inner} {plain}", output), data)[0]
    result = normalized(proto)
    np.testing.assert_allclose(run(result, data)[0], expected, rtol=TOLERANCE, atol=TOLERANCE)
    (site,) = find(result)
    assert isinstance(site, AttentionSite) and len(site.mask.terms) == 1


@pytest.mark.parametrize(
    "body",
    (
        'o = Einsum <equation = "bhsd,bhtd->bhst"> (q, k)',  # no softmax
        "o = com.microsoft.FusedMatMul <transB = 1> (q, k)",
        "s = com.microsoft.FusedMatMul <transBatchA = 1> (q, k) o = Softmax <axis = -1> (s)",
        's = Einsum <equation = "bhsd,bhtd->bhs"> (q, k) o = Softmax <axis = -1> (s)',
    ),
)
def test_left_alone(body: str) -> None:
    proto = model(HEADS_FIRST, body, "float o")
    assert [node.op_type for node in normalized(proto).graph.node] == [
        node.op_type for node in proto.graph.node
    ]


def test_classifier_is_left_alone() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[B,4] x) => (float[B,2] p)
        <float[4,2] w = {1, 2, 3, 4, 5, 6, 7, 8}> { s = Gemm(x, w) p = Softmax <axis = -1> (s) }"""
    )
    assert [node.op_type for node in normalized(proto).graph.node] == ["Gemm", "Softmax"]
    assert not [entry for entry in find(normalized(proto)) if not isinstance(entry, Refusal)]
