"""Models whose attention is in model-local functions."""

from __future__ import annotations

import onnx
from onnx import FunctionProto, ModelProto, helper

from tests.reference.decoders import Decoder

DECODER = Decoder(layers=2, kv_heads=4, causal=False)

ATTEND = """
    <opset_import: ["" : 17]>
    Attend <scale: float = 0.25> (q_flat, k_flat, v_flat) => (o)
    {
        split = Constant <value_ints = [0, 0, 4, 16]> ()
        q_split = Reshape (q_flat, split)
        k_split = Reshape (k_flat, split)
        v_split = Reshape (v_flat, split)
        q = Transpose <perm = [0, 2, 1, 3]> (q_split)
        kt = Transpose <perm = [0, 2, 3, 1]> (k_split)
        v = Transpose <perm = [0, 2, 1, 3]> (v_split)
        s = MatMul (q, kt)
        factor = Constant <value_float: float = @scale> ()
        s_scaled = Mul (s, factor)
        [softmax] p = Softmax <axis = -1> (s_scaled)
        o = MatMul (p, v)
    }"""

DOUBLE = """
    <opset_import: ["" : 17]>
    Double (x) => (y) { y = Add (x, x) }"""


def function(text: str, domain: str = "mine") -> FunctionProto:
    """A function from text."""
    parsed: FunctionProto = onnx.parser.parse_function(text)
    parsed.domain = domain
    return parsed


def calling(*, scale: float | None = 0.25, domain: str = "mine") -> ModelProto:
    """Two blocks whose attention is one function called twice, and another function that holds none."""
    model = DECODER.model()
    nodes = []
    for node in model.graph.node:
        kind = node.output[0][0]
        if node.output[0] in ("o0", "o1"):
            i = node.output[0][1]
            attributes = {} if scale is None else {"scale": scale}
            call = helper.make_node(
                "Attend",
                [f"q{i}_flat", f"k{i}_flat", f"v{i}_flat"],
                [f"o{i}"],
                f"block_{i}",
                domain=domain,
                **attributes,
            )
            nodes.append(call)
        elif kind in "qkvsp" and not node.output[0].endswith("_flat"):
            continue
        else:
            nodes.append(node)
    nodes.append(helper.make_node("Double", ["y"], ["z"], "doubling", domain=domain))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.output.append(model.graph.output[0])
    model.graph.output[1].name = "z"
    model.functions.extend([function(ATTEND, domain), function(DOUBLE, domain)])
    model.opset_import.append(helper.make_opsetid(domain, 1))
    return model


SOFTEN = """
    <opset_import: ["" : 17]>
    Soften <axis: int = -1> (x) => (y) { [inner] y = Softmax <axis: int = @axis> (x) }"""

TIMES = """
    <opset_import: ["" : 17]>
    Times (a, b) => (c) { c = MatMul (a, b) }"""

BLOCK = """
    <opset_import: ["" : 17, "mine" : 1]>
    Block (x, wq, wk, wv, wo) => (y)
    {
        q = mine.Times (x, wq)
        k = mine.Times (x, wk)
        v = mine.Times (x, wv)
        [attend] o = mine.Attend <scale = 0.25> (q, k, v)
        o_rows = Transpose <perm = [0, 2, 1, 3]> (o)
        joined = Constant <value_ints = [0, 0, 64]> ()
        o_flat = Reshape (o_rows, joined)
        o_proj = mine.Times (o_flat, wo)
        doubled = mine.Double (o_proj)
        y = Add (x, doubled)
    }"""


def library_style() -> ModelProto:
    """Blocks as functions of functions, down to one function an operator, as some exporters write them."""
    parts = (
        ATTEND.replace("s = MatMul (q, kt)", "s = mine.Times (q, kt)")
        .replace(
            "[softmax] p = Softmax <axis = -1> (s_scaled)", "[softmax] p = mine.Soften (s_scaled)"
        )
        .replace("o = MatMul (p, v)", "o = mine.Times (p, v)")
        .replace('<opset_import: ["" : 17]>', '<opset_import: ["" : 17, "mine" : 1]>')
    )
    model = DECODER.model()
    del model.graph.node[:]
    for i in range(2):
        weights = [f"w{letter}{i}" for letter in "qkvo"]
        model.graph.node.append(
            helper.make_node(
                "Block", [f"x{i}", *weights], [f"x{i + 1}"], f"layer_{i}", domain="mine"
            )
        )
    model.graph.node.append(helper.make_node("Double", ["x2"], ["y"], "doubling", domain="mine"))
    for text in (parts, DOUBLE, SOFTEN, TIMES, BLOCK):
        model.functions.append(function(text))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    return model
