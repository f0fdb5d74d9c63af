"""The floor that keeps two sums of masks finite."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto

from qfa_passes.graph.graph_pass import run_passes
from qfa_passes.graph.ir import Graph
from qfa_passes.normalize.move_floors import MoveFloors

LOWEST = float(np.finfo(np.float32).min)
CONSTANTS = (
    f"float low = {{{LOWEST}}}, float c = {{0.125}}, float small = {{-100.0}}, float top = {{50.0}},"
    "float o = {0.0}, float shallow = {-1e9}, int64[1] first = {0},"
    f"float[1,1,1,1,1] five = {{{LOWEST}}}"
)


def model(body: str) -> ModelProto:
    """Scores (B, 4, S, T) with a mask m."""
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[B,4,S,8] q, float[B,4,8,T] kt, float[B,1,S,T] m, bool[B,1,S,T] k) => (float[B,4,S,T] p)
        <{CONSTANTS}> {{ s = MatMul(q, kt) {body} p = Softmax<axis=-1>(z) }}"""
    )


def moved(proto: ModelProto) -> ModelProto:
    """After the pass."""
    graph = Graph(onnx.shape_inference.infer_shapes(proto, data_prop=True))
    run_passes(graph, [MoveFloors()])
    return graph.finish()


def run(proto: ModelProto) -> np.ndarray:
    """Weights where one row is masked by -inf and by the lowest number, and some keys by each."""
    random = np.random.default_rng(0)
    mask = np.zeros((2, 1, 5, 7), np.float32)
    mask[0, 0, 1, :3], mask[0, 0, 2, 3:], mask[1, 0, 3] = -np.inf, LOWEST, LOWEST
    mask[1, 0, 3, ::2] = -np.inf
    feeds = {
        "q": random.standard_normal((2, 4, 5, 8)).astype(np.float32),
        "kt": random.standard_normal((2, 4, 8, 7)).astype(np.float32),
        "m": mask,
        "k": mask == 0,
    }
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {v.name: feeds[v.name] for v in session.get_inputs()})[0])


MOVED = {
    "plain": ("y = Add(s, m) z = Max(y, low)", ["MatMul", "Max", "Add", "Softmax"]),
    "commuted": ("y = Add(m, s) z = Max(low, y)", ["MatMul", "Max", "Add", "Softmax"]),
    "clip": ("y = Add(s, m) z = Clip(y, low)", ["MatMul", "Max", "Add", "Softmax"]),
    "scaled": (
        "x = Mul(s, c) y = Add(x, m) z = Max(y, low)",
        ["MatMul", "Mul", "Max", "Add", "Softmax"],
    ),
    "mask of two numbers": (
        "w = Where(k, o, low) y = Add(s, w) z = Max(y, low)",
        ["MatMul", "Where", "Add", "Softmax"],
    ),
    "no mask": ("z = Max(s, low)", ["MatMul", "Softmax"]),
}


@pytest.mark.parametrize("name", MOVED)
def test_floor_moves(name: str) -> None:
    body, ops = MOVED[name]
    before = model(body)
    after = moved(before)
    assert sorted(node.op_type for node in after.graph.node) == sorted(ops)
    np.testing.assert_array_equal(run(after), run(before))


STAYS = {
    "high floor": "y = Add(s, m) z = Max(y, small)",
    "floor that shows next to scores": "y = Add(s, m) z = Max(y, shallow)",
    "floor of more axes": "y = Add(s, m) z0 = Max(y, five) z = Squeeze(z0, first)",
    "ceiling": "y = Add(s, m) z = Clip(y, low, top)",
    "minimum": "y = Add(s, m) z = Min(y, low)",
    "two masks": "x = Add(s, m) y = Add(x, m) z = Max(y, low)",
    "sum is read elsewhere": "y = Add(s, m) y1 = Max(y, low) z = Add(y1, y)",
}


@pytest.mark.parametrize("name", STAYS)
def test_floor_stays(name: str) -> None:
    before = model(STAYS[name])
    assert [node.op_type for node in moved(before).graph.node] == [
        node.op_type for node in before.graph.node
    ]
