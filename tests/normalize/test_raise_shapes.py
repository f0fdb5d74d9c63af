"""Shapes of scores and weights, asked of what they are made of: the same numbers, and no score is needed for them."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto

from qfa_passes.graph.graph_pass import run_passes
from qfa_passes.graph.ir import Graph
from qfa_passes.normalize.raise_shapes import RaiseShapes

HEADER = '<ir_version: 8, opset_import: ["": 17]> g '
INPUTS = "float[B,4,S,8] q, float[B,4,8,T] kt, float[B,4,T,6] v, float[B,1,S,T] m"
BLOCK = "s = MatMul(q, kt) y = Add(s, m) p = Softmax<axis=-1>(y) o = MatMul(p, v)"
RAISED = {
    "of the scores": "n = Shape(s)",
    "of the masked scores": "n = Shape(y)",
    "of the weights": "n = Shape(p)",
    "a part": "n = Shape<start=2>(p)",
    "a part from both ends": "n = Shape<start=1, end=-1>(y)",
}


def run(proto: ModelProto) -> list[np.ndarray]:
    """Outputs for random inputs."""
    random = np.random.default_rng(0)
    shapes = {"q": (2, 4, 5, 8), "kt": (2, 4, 8, 7), "v": (2, 4, 7, 6), "m": (2, 1, 5, 7)}
    feeds = {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def model(shape: str, block: str = BLOCK) -> ModelProto:
    """The block with a shape as its second output."""
    return onnx.parser.parse_model(
        f"{HEADER} ({INPUTS}) => (float[B,4,S,6] o, float z)"
        f"{{ {block} {shape} f = Cast<to=1>(n) z = ReduceSum<keepdims=0>(f) }}"
    )


def raised(proto: ModelProto) -> ModelProto:
    """After the pass."""
    graph = Graph(onnx.shape_inference.infer_shapes(proto, data_prop=True))
    run_passes(graph, [RaiseShapes()])
    return graph.finish()


@pytest.mark.parametrize("name", RAISED)
def test_shape_is_asked_above(name: str) -> None:
    before = model(RAISED[name])
    after = raised(before)
    inner = {"s", "y", "p"}
    assert not any(node.op_type == "Shape" and inner & set(node.input) for node in after.graph.node)
    for expected, got in zip(run(before), run(after), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_shape_behind_a_reshape_is_asked_of_the_inputs() -> None:
    block = """
        s = MatMul(q, kt) b = Shape<end=1>(q) r = Concat<axis=0>(b, rest) x = Reshape(s, r)
        y = Add(x, x) p = Softmax<axis=-1>(y) o0 = MatMul(p, v1) o = Unsqueeze(o0, one)
    """
    proto = onnx.parser.parse_model(
        HEADER
        + f"""(float[B,1,5,8] q, float[B,1,8,7] kt, float[B,7,6] v1) => (float[B,1,5,6] o, int64[3] n)
        <int64[2] rest = {{5, 7}}, int64[1] one = {{1}}> {{ {block} n0 = Shape(p) n = Identity(n0) }}"""
    )
    after = raised(proto)
    assert not any(node.op_type == "Shape" and "p" in node.input for node in after.graph.node)


def test_other_shapes_stay() -> None:
    hidden = "h = Add(q, q) n = Shape(h)"
    assert raised(model(hidden)) == raised(raised(model(hidden)))
    assert any(
        node.op_type == "Shape" and node.input[0] == "h"
        for node in raised(model(hidden)).graph.node
    )
