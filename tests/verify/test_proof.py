"""What a proof says of sound sites: the contract, the extents, and what it cannot tell."""

from dataclasses import replace

import onnx
import pytest
from onnx import ModelProto, TensorProto

from qfa_passes.core.outcome import Standing
from qfa_passes.core.passes import Contract
from qfa_passes.core.site import AttentionSite, Mask, MaskKind, MaskTerm
from tests.match.blocks import Block, find, normalized
from tests.metamorphic.models import rich
from tests.verify.everything import SITE, everything
from tests.verify.proving import prove, prover
from tests.verify.test_proof_mutations import WINDOW, WINDOWED

PLAIN = replace(WINDOWED, mask=Mask())
PADDED = Block(
    inputs="float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,T,6] v, bool[B,1,1,T] keep",
    constants="float ninf = {-inf}, float zero = {0.0}",
    mask="y = Where(keep, x, ninf)",
)
KEPT = replace(PLAIN, mask=Mask(terms=(MaskTerm("keep", MaskKind.KEEP),)))


def test_what_the_matcher_says_of_a_rich_block_is_proven() -> None:
    (site,) = find(rich())
    assert isinstance(site, AttentionSite)
    proof = prove(normalized(rich()), site)
    assert (proof.standing, proof.contract) == (Standing.PROVEN, Contract.EXACT)


def test_without_a_guard_only_nan_may_change() -> None:
    proof = prove(PADDED.model(), KEPT)
    assert (proof.standing, proof.contract) == (Standing.PROVEN, Contract.REFINES_NAN)


def test_with_a_guard_nothing_may_change() -> None:
    guarded = replace(PADDED, weights="bad = IsNaN(p) w = Where(bad, zero, p)")
    proof = prove(guarded.model(), KEPT)
    assert (proof.standing, proof.contract) == (Standing.PROVEN, Contract.EXACT)


def test_a_guard_that_gives_something_else_is_caught() -> None:
    one = replace(
        PADDED,
        constants="float ninf = {-inf}, float one = {1.0}",
        weights="bad = IsNaN(p) w = Where(bad, one, p)",
    )
    assert prove(one.model(), KEPT).standing is Standing.DISPROVEN


def test_a_finite_mask_averages_where_it_hides_everything() -> None:
    finite = replace(PADDED, constants="float ninf = {-1e9}")
    term = replace(KEPT.mask.terms[0], fill=-1e9)
    proof = prove(finite.model(), replace(KEPT, mask=Mask(terms=(term,))))
    assert (proof.standing, proof.contract) == (Standing.PROVEN, Contract.EXACT)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_floats_are_proven_to_the_precision_of_floats(kind: str) -> None:
    site = replace(PLAIN, dtype=TensorProto.DataType.Value(kind.upper()), scale=0.25)
    proof = prove(half_block(kind), site)
    assert proof.standing is Standing.PROVEN
    assert proof.nmse is not None and proof.nmse < 1e-12
    assert prove(half_block(kind), replace(site, scale=0.2501)).standing is Standing.DISPROVEN


@pytest.mark.parametrize(
    ("kind", "rounded"), [("float16", 0.333251953125), ("bfloat16", 0.333984375)]
)
def test_a_scale_in_half_precision_is_the_rounded_one(kind: str, rounded: float) -> None:
    site = replace(PLAIN, dtype=TensorProto.DataType.Value(kind.upper()), scale=rounded)
    assert prove(half_block(kind, 1 / 3), site).standing is Standing.PROVEN
    assert prove(half_block(kind, 1 / 3), replace(site, scale=1 / 3)).standing is Standing.DISPROVEN


def half_block(kind: str, scale: float = 0.25) -> ModelProto:
    """Scores are scaled in half precision and pass the softmax in float32."""
    return Block(
        inputs=f"{kind}[B,4,S,8] q, {kind}[B,4,T,8] k, {kind}[B,4,T,6] v",
        before=f"c = Constant<value_float = {scale}>() f = CastLike(c, q)",
        scores="x0 = MatMul(q, kt) x = Mul(x0, f)",
        mask="y = Cast<to = 1>(x)",
        weights="w = CastLike(p, q)",
        outputs=f"{kind}[B,4,S,6] o",
    ).model()


def test_quantization_pairs_are_passed_over() -> None:
    block = Block(
        constants="float step = {0.03}, uint8 middle = {128}, float fine = {0.004}, uint8 none = {0}",
        before="q8 = QuantizeLinear(q, step, middle) qd = DequantizeLinear(q8, step, middle)",
        scores="x = MatMul(qd, kt)",
        weights="p8 = QuantizeLinear(p, fine, none) w = DequantizeLinear(p8, fine, none)",
    )
    assert prove(block.model(), PLAIN).standing is Standing.PROVEN


def test_full_verification_tries_several_extents() -> None:
    fast, full = (prove(everything(), SITE, thorough=flag) for flag in (False, True))
    assert full.standing is fast.standing is Standing.PROVEN
    assert full.runs > fast.runs and full.sizes.count(";") >= 3
    assert "S 1, T" in full.sizes


def test_equal_blocks_are_proven_once() -> None:
    layer = "t{0} = Transpose<perm = [0, 1, 3, 2]>(k) x{0} = MatMul(q, t{0}) y{0} = Mul(x{0}, c{0})"
    layer += " p{0} = Softmax(y{0}) o{0} = MatMul(p{0}, v)"
    model = onnx.parser.parse_model(
        f"""
        <ir_version: 8, opset_import: ["": 17]>
        layers (float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,T,6] v) => (float[B,4,S,6] o0)
        <float c0 = {{0.5}}, float c1 = {{0.5}}, float c2 = {{0.25}}>
        {{ {" ".join(layer.format(number) for number in range(3))} }}
        """
    )
    prove_it = prover(model)
    first, same, other = (
        prove_it(replace(PLAIN, scale=0.5, output=f"o{number}")) for number in range(3)
    )
    assert first.proof.standing is Standing.PROVEN
    assert same is first
    assert other.proof.standing is Standing.DISPROVEN


def test_a_window_beyond_the_runs_is_told() -> None:
    block = WINDOW.model()
    for tensor in block.graph.initializer:
        if tensor.name == "left":
            tensor.int64_data[:] = [4000]
    site = replace(WINDOWED, mask=Mask(left_window=4000, right_window=1))
    proof = prove(block, site)
    assert proof.standing is Standing.PROVEN
    assert proof.reason == "its window of 4000 keys is longer than these runs"


def large_block(rows: int) -> ModelProto:
    return Block(
        inputs=f"float[1,4,{rows},8] q, float[1,4,{rows},8] k, float[1,4,{rows},6] v",
        outputs=f"float[1,4,{rows},6] o",
    ).model()


def test_a_large_block_is_proven_by_the_kernel() -> None:
    proof = prove(large_block(1200), PLAIN)
    assert (proof.standing, proof.sizes) == (Standing.PROVEN, "B 1, S 1200, T 1200")
    assert prove(large_block(1200), replace(PLAIN, scale=0.999)).standing is Standing.DISPROVEN
    assert prove(large_block(1200), PLAIN, library=False).standing is Standing.OPEN


def test_a_block_too_large_to_try_stays_open() -> None:
    proof = prove(large_block(4200), PLAIN)
    assert (proof.standing, proof.nmse) == (Standing.OPEN, None)
    assert "too large" in proof.reason


def test_an_unknown_rank_stays_open() -> None:
    model = Block(mask="m = my.domain.Op(q) y = Add(x, m)", domains=', "my.domain": 1').model()
    site = replace(PLAIN, mask=Mask(terms=(MaskTerm("m", MaskKind.BIAS),)))
    proof = prove(model, site)
    assert proof.standing is Standing.OPEN and "shape of 'm' is not known" in proof.reason


def test_an_operator_that_no_runtime_knows_stays_open() -> None:
    model = Block(mask="y = my.domain.Op(x)", domains=', "my.domain": 1').model()
    onnx.checker.check_model(model)
    proof = prove(model, PLAIN)
    assert proof.standing is Standing.OPEN and "my.domain" in proof.reason


def test_symbols_that_must_be_equal_are_found() -> None:
    """The mask says T where keys and past say P + N; the batch of the mask has another name than that of Q."""
    model = everything()
    for value in model.graph.input:
        if value.name == "keep":
            value.type.tensor_type.shape.dim[0].dim_param = "rows"
    assert prove(model, SITE).standing is Standing.PROVEN


def test_sinks_in_another_shape() -> None:
    model = everything()
    for value in model.graph.input:
        if value.name == "sink":
            value.CopyFrom(onnx.helper.make_tensor_value_info("sink", 1, [1, 4, 1, 1]))
    assert prove(model, SITE).standing is Standing.PROVEN


def test_extents_that_follow_from_others_by_a_formula() -> None:
    model = everything()
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == "S":
                dim.dim_param = "((samples - 6)//8)"
            if dim.dim_param == "N":
                dim.dim_param = "Max(2, samples - 5)"
    proof = prove(model, SITE)
    assert proof.standing is Standing.PROVEN
    assert "S 5, " in proof.sizes
