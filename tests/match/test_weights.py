"""What may stand between the softmax and the product with V, and who else may look at it."""

import pytest

from qfa_passes.graph.ir import Graph
from tests.match.blocks import PLAIN_INPUTS, Block, find, refusal_of
from tests.match.oracle import check_site

PADDED = f"{PLAIN_INPUTS}, bool[B,1,1,T] keep"
CODES = "float step = {0.003921569}, uint8 zero = {0}"
QDQ = "c = QuantizeLinear(p, step, zero) w = DequantizeLinear(c, step, zero)"
PASSED = {
    "identity": Block(),
    "casts": Block(weights="d = Cast<to=11>(p) w = Cast<to=1>(d)"),
    "dropout": Block(weights="w = Dropout(p)"),
    "dropout that says so": Block(
        constants="float r = {0.5}, bool off = {0}", weights="w = Dropout(p, r, off)"
    ),
    "guard against NaN": Block(
        inputs=PADDED,
        constants="float zero = {0.0}, float ninf = {-inf}",
        mask="y = Where(keep, x, ninf)",
        weights="n = IsNaN(p) w = Where(n, zero, p)",
    ),
    "Q/DQ": Block(constants=CODES, weights=QDQ),
    "Q/DQ of int8": Block(constants="float step = {0.007874016}, int8 zero = {0}", weights=QDQ),
    "softmax over axis 3": Block(softmax="p = Softmax<axis = 3>(y)"),
    "softmax without axis": Block(softmax="p = Softmax(y)"),
    "softmax in double": Block(mask="y = Cast<to=11>(x)", weights="w = Cast<to=1>(p)"),
}


@pytest.mark.parametrize("name", PASSED)
def test_what_changes_no_weight_is_passed(name: str) -> None:
    tolerance = 2e-2 if "Q/DQ" in name else 1e-5
    check_site(PASSED[name].model(), tolerance=tolerance)


REFUSED = {
    "softmax over heads": (Block(softmax="p = Softmax<axis = 1>(y)"), "'n3' runs over axis 1"),
    "softmax over queries": (Block(softmax="p = Softmax<axis = -2>(y)"), "'n3' runs over axis -2"),
    "mask after softmax": (
        Block(
            inputs=f"{PLAIN_INPUTS}, float[B,1,1,T] bias",
            weights="w = Mul(p, bias)",
        ),
        "operator Mul (node 'n4')",
    ),
    "dropout in training": (
        Block(constants="float r = {0.5}, bool on = {1}", weights="w = Dropout(p, r, on)"),
        "dropout 'n4' may be in training mode",
    ),
    "dropout that an input decides": (
        Block(
            inputs=f"{PLAIN_INPUTS}, bool on",
            constants="float r = {0.5}",
            weights="w = Dropout(p, r, on)",
        ),
        "dropout 'n4' may be in training mode",
    ),
    "weights from the right": (
        Block(
            inputs="float[B,4,S,8] q, float[B,4,S,8] k, float[B,4,S,S] v",
            product="o = MatMul(v, w)",
        ),
        "'n5' multiplies by the softmax output from the right",
    ),
    "weights of one step": (
        Block(constants=CODES.replace("0.003921569", "1.0"), weights=QDQ),
        "'n4' and 'n5' do not cover",
    ),
    "weights cut at a half": (
        Block(constants="float step = {0.003921569}, int8 zero = {0}", weights=QDQ),
        "'n4' and 'n5' do not cover",
    ),
    "weights out of two steps": (
        Block(
            constants=CODES + ", float other = {0.01}",
            weights="c = QuantizeLinear(p, step, zero) w = DequantizeLinear(c, other, zero)",
        ),
        "'n4' and 'n5' do not cover",
    ),
    "rounded weights": (
        Block(weights="i = Cast<to=7>(p) w = Cast<to=1>(i)"),
        "'n4' casts to a type that is no plain float",
    ),
    "guard that puts a one": (
        Block(constants="float one = {1.0}", weights="n = IsNaN(p) w = Where(n, one, p)"),
        "is used by 2 nodes ('n4', 'n5')",
    ),
    "guard of another value": (
        Block(constants="float zero = {0.0}", weights="n = IsNaN(y) w = Where(n, zero, p)"),
        "'n3'",
    ),
    "weights are read twice": (
        Block(weights="w = Identity(p) extra = ReduceSum(p)"),
        "softmax output ('p') is used by 2 nodes ('n5', 'n6')",
    ),
    "scores are read twice": (
        Block(weights="w = Identity(p) extra = ReduceSum(x)"),
        "score matrix ('x') is used by 2 nodes",
    ),
    "foreign product": (
        Block(product="o = other.MatMul(w, v)", domains=', "other": 1'),
        "operator other::MatMul",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_changes_weights_is_refused(name: str) -> None:
    block, reason = REFUSED[name]
    model = block.model()
    model.graph.output[0].ClearField("type")
    for node in model.graph.node:
        if node.output[0] == "extra":
            model.graph.output.add(name="extra")
    if name == "guard of another value":
        assert "used by 2 nodes" in refusal_of(model).reason
    else:
        assert reason in refusal_of(model).reason


@pytest.mark.parametrize(("value", "role"), [("x", "score matrix"), ("p", "softmax output")])
def test_values_inside_that_are_outputs(value: str, role: str) -> None:
    block = Block(mask="y = Mul(x, one)", constants="float one = {0.5}")
    model = block.model()
    model.graph.output.add(name=value)
    refusal = refusal_of(model)
    assert refusal.reason == f"the {role} ('{value}') is an output of the model"
    assert "attention weights" in refusal.hint


def test_softmax_of_another_domain_is_no_candidate() -> None:
    block = Block(softmax="p = other.Softmax<axis = -1>(y)", domains=', "other": 1')
    model = block.model()
    model.graph.output[0].ClearField("type")
    assert find(model) == []


def test_classifier_is_passed_over_in_silence() -> None:
    block = Block(
        inputs="float[B,10] q",
        keys="",
        scores="",
        mask="y = Relu(q)",
        weights="",
        product="o = Log(p)",
        outputs="float[B,10] o",
    )
    assert find(block.model()) == []


def test_default_domain_by_its_other_name() -> None:
    model = Block(softmax="p = ai.onnx.Softmax<axis = -1>(y)").model()
    check_site(Graph(model).finish())


def test_pooling_by_weights_is_passed_over_in_silence() -> None:
    """Weights of a sequence, times its rows, summed up: no scores of pairs."""
    block = Block(
        inputs="float[B,S,8] q, float[8,4] out",
        constants="int64[1] rows = {1}, float[8,1] u = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0}",
        keys="",
        scores="x = MatMul(q, u)",
        softmax="p = Softmax <axis = 1> (y)",
        weights="w = Mul(p, q) r = ReduceSum <keepdims = 0> (w, rows)",
        product="o = MatMul(r, out)",
        outputs="float[B,4] o",
    )
    assert find(block.model()) == []
