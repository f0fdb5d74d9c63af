"""Attention of com.microsoft that is not written out is refused, each with its reason."""

import onnx
import pytest

from qfa_passes.core.site import Refusal
from tests.match.blocks import find

HEADER = '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1, "other": 1, "unknown": 1]>'


def refusals(inputs: str, body: str) -> list[Refusal]:
    proto = onnx.parser.parse_model(f"{HEADER} g ({inputs}) => (float[B,S,8] o) {{ {body} }}")
    for number, node in enumerate(proto.graph.node):
        node.name = f"n{number}"
    return [entry for entry in find(proto) if isinstance(entry, Refusal)]


@pytest.mark.parametrize(
    "operator,word",
    (
        ("QAttention", "quantized"),
        ("DecoderMaskedMultiHeadAttention", "one query at a time"),
        ("PackedAttention", "packed without padding"),
        ("PagedAttention", "pages"),
        ("LongformerAttention", "global tokens"),
    ),
)
def test_unwritten_operators(operator: str, word: str) -> None:
    body = f"o = com.microsoft.{operator} <num_heads = 2> (x, x, x)"
    (refusal,) = refusals("float[B,S,8] x", body)
    assert refusal.where == "n0" and operator in refusal.reason and word in refusal.reason
    assert refusal.hint


@pytest.mark.parametrize(
    "body,word",
    (
        ("o = com.microsoft.MultiHeadAttention <num_heads = 3> (x, x, x)", "8 channels"),
        ("o = com.microsoft.MultiHeadAttention <num_heads = 2> (x, x)", "no input value"),
        ("o, a, b, w = com.microsoft.MultiHeadAttention <num_heads = 2> (x, x, x)", "output qk"),
        ("o = com.microsoft.MultiHeadAttention <num_heads = 2> (u, u, u)", "rank unknown"),
        ("o = com.microsoft.MultiHeadAttention <num_heads = 2> (y, y, y)", "not known"),
        ("o = com.microsoft.Attention <num_heads = 2> (x, y)", "rank 3, expected 2"),
    ),
)
def test_unsupported_variants(body: str, word: str) -> None:
    (refusal,) = refusals("float[B,S,8] x, float[B,S,N] y", f"u = unknown.Op(x) {body}")
    assert word in refusal.reason, refusal.reason
    assert refusal.hint


def test_integer_softmax() -> None:
    inputs = "uint8[B,4,S,T] x, float s, uint8 z, uint8[B,4,T,8] v"
    softmax = "p = com.microsoft.QLinearSoftmax <axis = -1, opset = 17> (x, s, z, s, z)"
    (refusal,) = refusals(inputs, f"{softmax} o = QLinearMatMul(p, s, z, v, s, z, s, z)")
    assert "integers" in refusal.reason and "QDQ" in refusal.hint
    assert not refusals(inputs, f"{softmax} o = DequantizeLinear(p, s, z)")


def test_same_names_of_other_domains_are_nothing() -> None:
    assert not refusals("float[B,S,8] x", "o = other.MultiHeadAttention <num_heads = 2> (x, x, x)")
