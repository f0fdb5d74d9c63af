"""Masks of windows whose number only a run tells."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto

from qfa_passes.graph.graph_pass import run_passes
from qfa_passes.graph.ir import Graph
from qfa_passes.normalize.widen_masks import WidenMasks

WINDOWS = """
    ms = Shape(m) w = Slice(ms, a0, a1) xs = Shape(x) n = Slice(xs, a0, a1) b = Div(n, w)
    apart = Concat<axis=0>(b, w, three, four, four) x5 = Reshape(x, apart) m4 = Unsqueeze(m, a1) m5 = Unsqueeze(m4, a0)
"""
SUM = "y5 = Add(x5, m5) y = Reshape(y5, back) p = Softmax<axis=-1>(y)"


def model(
    body: str = WINDOWS + SUM, inputs: str = "float[N,3,4,4] x, float[W,4,4] m"
) -> ModelProto:
    """Scores (N, 3, 4, 4) of N = B * W windows."""
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => (float[N,3,4,4] p)
        <int64[1] a0 = {{0}}, int64[1] a1 = {{1}}, int64[1] three = {{3}}, int64[1] four = {{4}},
         int64[4] back = {{-1, 3, 4, 4}}, int64[5] free = {{-1, 2, 3, 4, 4}}> {{ {body} }}"""
    )


def widened(proto: ModelProto) -> ModelProto:
    """After the pass."""
    graph = Graph(onnx.shape_inference.infer_shapes(proto, data_prop=True))
    run_passes(graph, [WidenMasks()])
    return graph.finish()


def run(proto: ModelProto) -> np.ndarray:
    """Output for six windows, two kinds."""
    random = np.random.default_rng(0)
    feeds = {
        "x": random.standard_normal((6, 3, 4, 4)).astype(np.float32),
        "m": random.standard_normal((2, 4, 4)).astype(np.float32),
    }
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


@pytest.mark.parametrize("total", ["Add(x5, m5)", "Add(m5, x5)"])
def test_mask_is_widened(total: str) -> None:
    before = model(WINDOWS + SUM.replace("Add(x5, m5)", total))
    after = widened(before)
    ops = [node.op_type for node in after.graph.node]
    assert "Expand" in ops and ops[-2:] == ["Add", "Softmax"]
    assert not any("x5" in node.output for node in after.graph.node)
    np.testing.assert_array_equal(run(after), run(before))


STAYS = {
    "fixed number of windows": (WINDOWS + SUM)
    .replace("apart)", "free)", 2)
    .replace("Concat<axis=0>(b, w, three, four, four)", "Identity(free)"),
    "read elsewhere": WINDOWS
    + "y5 = Add(x5, m5) y0 = Reshape(y5, back) z = Reshape(x5, back) y = Add(y0, z) p = Softmax<axis=-1>(y)",
    "no softmax": WINDOWS + SUM.replace("Softmax<axis=-1>(y)", "Relu(y)"),
    "other rows in the end": WINDOWS
    + SUM.replace(
        "y = Reshape(y5, back)", "t = Transpose<perm=[0,1,2,4,3]>(y5) y = Reshape(t, back)"
    ),
}


@pytest.mark.parametrize("name", STAYS)
def test_other_sums_stay(name: str) -> None:
    before = model(STAYS[name])
    assert not any(node.op_type == "Expand" for node in widened(before).graph.node)
