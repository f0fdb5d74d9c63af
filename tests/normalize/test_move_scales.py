"""Scales that are no single number move from the scores to Q or K^T, if they fit there."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto

from qfa_passes.graph.graph_pass import run_passes
from qfa_passes.graph.ir import Graph
from qfa_passes.normalize.move_scales import MoveScales

EXTENTS = {"B": 2, "S": 5, "T": 7}


def model(
    scale: str, op: str = "x = Mul(s, c)", after: str = "p = Softmax<axis=-1>(x)"
) -> ModelProto:
    """A block whose scores are scaled by c."""
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[B,4,S,8] q, float[B,4,8,T] kt, float[{scale}] c) => (float[B,4,S,T] p)
        {{ s = MatMul(q, kt) {op} {after} }}"""
    )


def moved(proto: ModelProto) -> ModelProto:
    """After the pass."""
    graph = Graph(onnx.shape_inference.infer_shapes(proto, data_prop=True))
    run_passes(graph, [MoveScales()])
    return graph.finish()


def run(proto: ModelProto) -> np.ndarray:
    """Output for random inputs."""
    random = np.random.default_rng(0)
    feeds = {
        value.name: random.uniform(
            0.5,
            2,
            [EXTENTS.get(d.dim_param, d.dim_value) for d in value.type.tensor_type.shape.dim],
        ).astype(np.float32)
        for value in proto.graph.input
    }
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


MOVED = {
    "per head": ("4,1,1", "x = Mul(s, c)", ["Mul", "MatMul", "Softmax"]),
    "commuted": ("4,1,1", "x = Mul(c, s)", ["Mul", "MatMul", "Softmax"]),
    "divided": ("4,1,1", "x = Div(s, c)", ["Div", "MatMul", "Softmax"]),
    "per query": ("B,4,S,1", "x = Mul(s, c)", ["Mul", "MatMul", "Softmax"]),
    "per key": ("B,4,1,T", "x = Mul(s, c)", ["Mul", "MatMul", "Softmax"]),
    "per key of all": ("T", "x = Div(s, c)", ["Div", "MatMul", "Softmax"]),
}


@pytest.mark.parametrize("name", MOVED)
def test_scale_moves(name: str) -> None:
    scale, op, ops = MOVED[name]
    before = model(scale, op)
    after = moved(before)
    assert [node.op_type for node in after.graph.node] == ops
    np.testing.assert_allclose(run(after), run(before), rtol=1e-5)


STAYS = {
    "one number": ("1,1", "x = Mul(s, c)"),
    "per score": ("B,4,S,T", "x = Mul(s, c)"),
    "stretches": ("B,4,1,1", "x = Div(c, s)"),
    "more axes": ("2,1,1,1,1", "x0 = Mul(s, c) x = Squeeze(x0, a0)"),
    "scores are read elsewhere": ("4,1,1", "x0 = Mul(s, c) x = Add(x0, s)"),
}


@pytest.mark.parametrize("name", STAYS)
def test_scale_stays(name: str) -> None:
    before = model(*STAYS[name])
    assert [node.op_type for node in moved(before).graph.node] == [
        node.op_type for node in before.graph.node
    ]


def test_scale_far_from_a_softmax_stays() -> None:
    before = model("4,1,1", after="p = Relu(x)")
    assert [node.op_type for node in moved(before).graph.node] == ["MatMul", "Mul", "Relu"]
