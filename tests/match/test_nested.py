"""Attention inside bodies and functions is reported, never touched and never passed over."""

import onnx
from onnx import helper

from qfa_passes.core.site import AttentionSite, Refusal
from tests.match.blocks import Block, find

BRANCH = """
<ir_version: 8, opset_import: ["": 17]>
branch (float[B,4,S,8] q, float[B,4,8,T] kt, float[B,4,T,6] v, bool c) => (float[B,4,S,6] o)
{
    o = If (c) <
        then_branch = yes () => (float[B,4,S,6] t) { s = MatMul(q, kt)  p = Softmax(s)  t = MatMul(p, v) },
        else_branch = no () => (float[B,4,S,6] e) { z = MatMul(q, kt)  l = LogSoftmax(z)  e = MatMul(l, v) }
    >
}
"""


def test_attention_in_a_branch() -> None:
    model = onnx.parser.parse_model(BRANCH)
    model.graph.node[0].name = "choice"
    (refusal,) = find(model)
    assert isinstance(refusal, Refusal)
    assert refusal.where == "p"
    assert refusal.reason.startswith("attention inside the If node 'choice'")


def with_function(domain: str) -> onnx.ModelProto:
    """A block and a call of a function that holds another."""
    model = Block().model()
    nodes = [
        helper.make_node("MatMul", ["a", "b"], ["s"]),
        helper.make_node("Softmax", ["s"], ["p"], name="inner"),
        helper.make_node("MatMul", ["p", "c"], ["r"]),
    ]
    imports = [helper.make_opsetid("", 17)]
    model.functions.append(
        helper.make_function(domain, "F", ["a", "b", "c"], ["r"], nodes, imports)
    )
    model.opset_import.append(helper.make_opsetid(domain, 1))
    model.graph.node.append(
        helper.make_node("F", ["q", "kt", "v"], ["f"], name="call", domain=domain)
    )
    model.graph.output.append(helper.make_tensor_value_info("f", 1, ["B", 4, "S", 6]))
    return model


def test_attention_in_a_function() -> None:
    site, refusal = find(with_function("mine"))
    assert isinstance(site, AttentionSite)
    assert isinstance(refusal, Refusal)
    assert refusal.where == "inner"
    assert refusal.reason.startswith("attention inside the function mine::F")


def test_function_that_nobody_calls_is_not_reported() -> None:
    model = with_function("mine")
    del model.graph.node[-1:], model.graph.output[-1:]
    assert [type(entry) for entry in find(model)] == [AttentionSite]


def test_body_of_our_own_operator_is_not_reported() -> None:
    assert [type(entry) for entry in find(with_function("ai.qfa"))] == [AttentionSite]
