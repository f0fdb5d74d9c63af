"""Softmax written out in exponentials."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto

from qfa_passes.graph.graph_pass import run_passes
from qfa_passes.graph.ir import Graph
from qfa_passes.normalize.join_softmax import JoinSoftmax

TAIL = "o = MatMul(p, v)"
CONSTANTS = (
    "int64[1] last = {-1}, int64[1] rows = {-2}, float small = {1e-6}, int64[2] two = {2, 3}"
)
JOINED = {
    "plain": "h = ReduceMax<axes=[-1]>(x) d = Sub(x, h) e = Exp(d) n = ReduceSum(e, last) p = Div(e, n)",
    "positive axis": "h = ReduceMax<axes=[3]>(x) d = Sub(x, h) e = Exp(d) n = ReduceSum(e, last) p = Div(e, n)",
    "reciprocal": """h = ReduceMax<axes=[-1]>(x) d = Sub(x, h) e = Exp(d) n = ReduceSum(e, last) r = Reciprocal(n)
        p = Mul(e, r)""",
    "commuted": """h = ReduceMax<axes=[-1]>(x) d = Sub(x, h) e = Exp(d) n = ReduceSum(e, last) r = Reciprocal(n)
        p = Mul(r, e)""",
    "stopped gradient": """h0 = ReduceMax<axes=[-1]>(x) h = Identity(h0) d = Sub(x, h) e = Exp(d)
        n = ReduceSum(e, last) p = Div(e, n)""",
    "logarithm": "l = LogSoftmax<axis=-1>(x) p = Exp(l)",
    "another axis": "h = ReduceMax<axes=[2]>(x) d = Sub(x, h) e = Exp(d) n = ReduceSum(e, rows) p = Div(e, n)",
}
STAYS = {
    "two axes": "h = ReduceMax<axes=[-1]>(x) d = Sub(x, h) e = Exp(d) n = ReduceSum(e, rows) p = Div(e, n)",
    "over both": "h = ReduceMax<axes=[2,3]>(x) d = Sub(x, h) e = Exp(d) n = ReduceSum(e, two) p = Div(e, n)",
    "something more": """h = ReduceMax<axes=[-1]>(x) d = Sub(x, h) e = Exp(d) n0 = ReduceSum(e, last) n = Add(n0, small)
        p = Div(e, n)""",
    "sum of something else": """h = ReduceMax<axes=[-1]>(x) d = Sub(x, h) e = Exp(d) f = Exp(x) n = ReduceSum(f, last)
        p = Div(e, n)""",
    "two sums": """h = ReduceMax<axes=[-1]>(x) d = Sub(x, h) e = Exp(d) m = ReduceSum(e, last) n = ReduceSum(e, rows)
        p0 = Div(e, n) f = IsNaN(m) p = Where(f, small, p0)""",
    "upside down": "h = ReduceMax<axes=[-1]>(x) d = Sub(x, h) e = Exp(d) n = ReduceSum(e, last) p = Div(n, e)",
    "other sign": "h = ReduceMax<axes=[-1]>(x) d = Sub(h, x) e = Exp(d) n = ReduceSum(e, last) p = Div(e, n)",
}


def model(body: str, tail: str = TAIL) -> ModelProto:
    """Weights of scores (B, 4, S, T)."""
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17]> g (float[B,4,S,T] x, float[B,4,T,6] v) => (float[B,4,S,6] o)
        <{CONSTANTS}> {{ {body} {tail} }}"""
    )


def joined(proto: ModelProto) -> ModelProto:
    """After the pass."""
    graph = Graph(onnx.shape_inference.infer_shapes(proto, data_prop=True))
    run_passes(graph, [JoinSoftmax()])
    return graph.finish()


def run(proto: ModelProto) -> np.ndarray:
    """Output for random inputs."""
    random = np.random.default_rng(0)
    feeds = {
        "x": 9 * random.standard_normal((2, 4, 5, 7)).astype(np.float32),
        "v": random.standard_normal((2, 4, 7, 6)).astype(np.float32),
    }
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


@pytest.mark.parametrize("name", JOINED)
def test_softmax_is_joined(name: str) -> None:
    before = model(JOINED[name])
    after = joined(before)
    assert [node.op_type for node in after.graph.node] == ["Softmax", "MatMul"]
    np.testing.assert_allclose(run(after), run(before), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", STAYS)
def test_other_quotients_stay(name: str) -> None:
    before = model(STAYS[name])
    assert [node.op_type for node in joined(before).graph.node] == [
        node.op_type for node in before.graph.node
    ]


def test_softmax_that_no_product_reads_stays() -> None:
    before = model(JOINED["plain"], "q = Exp(p) o = Mul(q, q)")
    assert not any(node.op_type == "Softmax" for node in joined(before).graph.node)
