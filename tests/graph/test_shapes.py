"""Symbolic shapes and contents against the shapes that ONNX Runtime computes."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, ValueInfoProto

from qfa_passes.graph.ir import Graph
from qfa_passes.graph.shape_inference import infer_shapes
from qfa_passes.graph.shapes import ShapeMap

Array = npt.NDArray[Any]
TINY_LM = Path(__file__).parents[2] / "models" / "tiny_lm" / "tiny_lm.onnx"
SIZES = {"B": 3, "S": 5, "T": 7, "N": 11}


def inferred(proto: ModelProto) -> ShapeMap:
    """Shapes of a model as the passes see them."""
    return infer_shapes(Graph(onnx.shape_inference.infer_shapes(proto, data_prop=True)))


def run_all(proto: ModelProto, feeds: dict[str, Array]) -> dict[str, Array]:
    """Every value of a model."""
    exposed = ModelProto()
    exposed.CopyFrom(proto)
    present = {value.name for value in exposed.graph.output}
    for node in proto.graph.node:
        exposed.graph.output.extend(
            ValueInfoProto(name=name) for name in node.output if name and name not in present
        )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = ort.InferenceSession(
        exposed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def check(known: ShapeMap, values: dict[str, Array], sizes: dict[str, int]) -> int:
    """Compares what is known with what was computed; returns how many extents were proven."""
    proven = 0
    for name, value in values.items():
        shape = known.shapes.get(name)
        if shape is not None:
            assert len(shape) == value.ndim, name
            for dim, extent in zip(shape, value.shape, strict=True):
                if all(symbol in sizes for monomial in dim.terms for symbol in monomial):
                    assert dim.at(sizes) == extent, (name, shape, value.shape)
                    proven += 1
        content = known.contents.get(name)
        if content is not None:
            assert content.scalar == (value.ndim == 0), name
            for item, number in zip(content.items, value.reshape(-1), strict=True):
                if all(symbol in sizes for monomial in item.terms for symbol in monomial):
                    assert item.at(sizes) == int(number), (name, content.items, value)
    return proven


@pytest.mark.parametrize("sizes", [{"batch": 1, "sequence": 1}, {"batch": 3, "sequence": 7}])
def test_every_value_of_the_language_model(sizes: dict[str, int]) -> None:
    proto = onnx.load(TINY_LM)
    known = inferred(proto)
    feeds: dict[str, Array] = {}
    for value in proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        feeds[value.name] = np.zeros(
            [sizes.get(dim.dim_param, dim.dim_value) for dim in dims], np.int64
        )
    values = run_all(proto, feeds)
    assert check(known, values, sizes) > 0.95 * sum(value.ndim for value in values.values())


# One line each: nodes that use inputs x (B, S, 6), y (B, 4, S, 8) and z (N), and int64 constants.
SNIPPETS = [
    "o = Reshape(x, to_split)",
    "o = Reshape(x, to_merge)",
    "o = Reshape(y, keep_first)",
    "o = Reshape<allowzero = 1>(empty, to_empty)",
    "s = Shape(x) b = Gather(s, i0) o = Mul(b, i2)",
    "s = Shape<start = 1, end = 3>(y) o = Mul(s, v2)",
    "s = Shape(y) o = Slice(s, v1, v3)",
    "s = Shape(y) o = Slice(s, v0, end, , v2)",
    "s = Shape(y) o = Slice(s, vm1, start, v0, vm1)",
    "s = Shape(y) o = Concat<axis = 0>(s, v2)",
    "s = Shape(y) d = Gather(s, i3) o = Div(d, i3)",
    "s = Shape(y) a, b = Split<axis = 0>(s, v22) o = Concat<axis = 0>(b, a)",
    "s = Shape(y) a, b, c = Split<axis = 0>(s, v112) o = Concat<axis = 0>(b, c, a)",
    "s = Shape(y) o = Squeeze(s1) s1 = Slice(s, v2, v3)",
    "o = Div(im7, i2)",
    "o = Div(i7, i2)",
    "s = Shape(x) e = Equal(s, v6) o = Where(e, v2, s)",
    "s = Shape(y) q = Div(s, v3) e = Equal(q, vm1) o = Where(e, v2, q)",
    "o = Less(i2, i7)",
    "s = Shape(y) o = Greater(s, v3)",
    "s = Shape(x) t = Add(s, v1) o = LessOrEqual(t, s)",
    "s = Shape(x) t = Add(s, v1) l = Less(s, t) n = Not(l) o = Or(l, n)",
    "s = Shape(x) g = GreaterOrEqual(s, v0) l = Less(s, v0) n = Not(l) o = And(g, n)",
    "s = Shape(y) e = Gather(s, v2) f = Add(e, v3) b = Add(y, y) o = Slice(b, v1, e, v2)",
    "t = Cast<to = 9>(i7) o = Cast<to = 7>(t)",
    "o = Cast<to = 6>(end)",
    "s = Shape(x) o = ConstantOfShape<value = int64[1] {3}>(n) n = Shape(s)",
    "s = Shape(x) n = Gather(s, i1) o = Range(i0, n, i1)",
    "s = Shape(x) n = Gather(s, i1) o = Range(i2, n, i1)",
    "s = Shape(x) n = Gather(s, i1) o = Range(n, i0, im1)",
    "o = Unsqueeze(x, v13)",
    "o = Unsqueeze(i7, v01)",
    "u = Unsqueeze(x, v13) o = Squeeze(u, v1)",
    "o = Expand(u, to) u = Unsqueeze(x, v1) to = Concat<axis=0>(v1, v3, v1, v1)",
    "o = Transpose(y)",
    "o = Transpose<perm = [2, 0, 3, 1]>(y)",
    "t = Transpose<perm = [0, 1, 3, 2]>(y) o = MatMul(y, t)",
    "o = Slice(y, v1, v3, v1)",
    "o = Slice(y, v0, end, v2)",
    "o = Slice(y, vm1, end, v2)",
    "s = Shape(y) e = Gather(s, v2) o = Slice(y, v0, e, v2)",
    "o, p = Split<axis = 1>(y, v22)",
    "o, p = Split<axis = 3, num_outputs = 2>(y)",
    "o, p, r = Split<axis = 3, num_outputs = 3>(y)",
    "o = Concat<axis = -2>(y, y)",
    "o = Gather<axis = 1>(y, v01)",
    "o = Gather<axis = 2>(y, i0)",
    "o = ReduceMean(y, v1)",
    "o = ReduceMean<keepdims = 0>(y, v1)",
    "o = ReduceSum(y)",
    "o = ReduceLogSumExp(y, v1)",
    "t = Selu(y) o = HardSigmoid(t)",
    "o = ReduceSum<noop_with_empty_axes = 1>(y)",
    "m = Unsqueeze(x, v1) k = Slice(m, v0, v1, v3) o = Add(y, k)",
    "o = Softmax(y)",
    "u = Unsqueeze(x, v1) o = Squeeze(u)",
    "o = GlobalAveragePool(y)",
    "o = MaxPool<kernel_shape = [1, 2]>(y)",
    "o, p = TopK(y, v3)",
    "o, p = TopK<axis = 1>(y, v2)",
    "o = ArgMax<axis = 1>(y)",
    "o = ArgMax<axis = -1, keepdims = 0>(y)",
    "n = Concat<axis = 0>(v0, v0, v1, v0, v0, v0, v2, v3) o = Pad(y, n)",
    "n = Constant<value_ints = [2, 1, 0, 1]>() a = Constant<value_ints = [3, 1]>() o = Pad(y, n, , a)",
    "n = Constant<value_ints = [1, 2]>() o = Pad(y, n, , v2)",
    "n = Constant<value_ints = [0, -1, 0, -2, 0, 0, 0, 1]>() o = Pad(y, n)",
    "f = Constant<value_floats = [1.0, 1.0, 2.0, 1.5]>() o = Resize(y, , f)",
    "s = Shape(y) b = Slice(s, v0, v2) n = Concat<axis = 0>(b, v3, v6) o = Resize(y, , , n)",
    "n = Constant<value_ints = [5, 4, 1, 1]>() w = ConstantOfShape(n) o = Conv(y, w)",
    "n = Constant<value_ints = [5, 4, 1, 3]>() w = ConstantOfShape(n) o = Conv(y, w)",
    "n = Constant<value_ints = [4, 5, 2, 2]>() w = ConstantOfShape(n) o = ConvTranspose(y, w)",
    "n = Concat<axis = 0>(v1, v2, v3, v1) o = Tile(y, n)",
    "o = Flatten(y)",
    "o = Flatten<axis = -1>(y)",
    "i = Constant<value_ints = [0, 0]>() g = Unsqueeze(i, v0) u = Gather<axis = 0>(x, i0) o = GatherElements(u, g)",
    "s = Shape(y) o = ReduceProd<keepdims = 0>(s)",
    "o = Size(y)",
    "s = Shape(y) a = Gather(s, i1) b = Gather(s, i3) o = Min(a, b)",
    "s = Shape(y) a = Gather(s, i1) b = Gather(s, i3) o = Max(a, b)",
    "s = Shape(y) a = Gather(s, i3) o = Mod(a, i3)",
    "s = Shape(y) o = Neg(s)",
]
HEADER = """
<ir_version: 8, opset_import: ["": 18]>
snippet (float[B,S,6] x, float[B,4,S,8] y, float[N] z, float[0,S] empty) => (o)
<int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}, int64 i3 = {3}, int64 i7 = {7}, int64 im1 = {-1}, int64 im7 = {-7},
 int64[1] v0 = {0}, int64[1] v1 = {1}, int64[1] v2 = {2}, int64[1] v3 = {3}, int64[1] v6 = {6}, int64[1] vm1 = {-1},
 int64[2] v01 = {0, 1}, int64[2] v13 = {1, 3}, int64[3] v112 = {1, 1, 2}, int64[2] v22 = {2, 2},
 int64[1] end = {9223372036854775807},
 int64[1] start = {-9223372036854775807}, int64[4] to_split = {0, 0, 2, 3}, int64[2] to_merge = {-1, 6},
 int64[3] keep_first = {0, 0, -1}, int64[2] to_empty = {0, 4}>
{ %s }
"""


@pytest.mark.parametrize("snippet", SNIPPETS)
@pytest.mark.parametrize(
    "sizes", [SIZES, {"B": 1, "S": 1, "T": 1, "N": 1}, {"B": 2, "S": 6, "T": 1, "N": 4}]
)
def test_operator(snippet: str, sizes: dict[str, int]) -> None:
    text = HEADER.replace("=> (o)", "=> (float o)") % snippet
    proto = onnx.parser.parse_model(text)
    proto.graph.output[0].ClearField("type")
    _sort(proto)
    known = inferred(proto)
    feeds: dict[str, Array] = {
        "x": np.zeros((sizes["B"], sizes["S"], 6), np.float32),
        "y": np.zeros((sizes["B"], 4, sizes["S"], 8), np.float32),
        "z": np.zeros(sizes["N"], np.float32),
        "empty": np.zeros((0, sizes["S"]), np.float32),
    }
    check(known, run_all(proto, feeds), sizes)


def _sort(proto: ModelProto) -> None:
    known = {value.name for value in (*proto.graph.input, *proto.graph.initializer)} | {""}
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    while nodes:
        node = next(node for node in nodes if known.issuperset(node.input))
        nodes.remove(node)
        known.update(node.output)
        proto.graph.node.append(node)


PROVEN = {
    "o = Reshape(x, to_split)": "(B, S, 2, 3)",
    "o = Reshape(x, to_merge)": "(B*S, 6)",
    "s = Shape(x) n = Gather(s, i1) o = Range(i0, n, i1)": "(S,)",
    "s = Shape(y) e = Gather(s, v2) o = Slice(y, v0, e, v2)": "(B, 4, S, 8)",
    "o = Concat<axis = -2>(y, y)": "(B, 4, 2*S, 8)",
}


@pytest.mark.parametrize("snippet", PROVEN)
def test_what_layouts_depend_on_is_proven(snippet: str) -> None:
    proto = onnx.parser.parse_model(HEADER.replace("=> (o)", "=> (float o)") % snippet)
    proto.graph.output[0].ClearField("type")
    graph = Graph(proto)
    assert repr(infer_shapes(graph).shapes["o"]) == PROVEN[snippet]


def test_expand_may_stretch_a_named_extent() -> None:
    text = HEADER.replace("=> (o)", "=> (float o)") % "s = Shape(any) o = Expand(x, s)"
    proto = onnx.parser.parse_model(text.replace("float[N] z", "float[N] z, float[a,b,c] any"))
    proto.graph.output[0].ClearField("type")
    for dim in proto.graph.input[3].type.tensor_type.shape.dim:
        dim.ClearField("dim_param")
    shape = infer_shapes(Graph(proto)).shapes["o"]
    assert not any(dim.is_symbol for dim in shape)


def test_question_marks_are_no_names() -> None:
    proto = onnx.parser.parse_model(HEADER.replace("=> (o)", "=> (float o)") % "o = Relu(x)")
    for dim in proto.graph.input[0].type.tensor_type.shape.dim:
        dim.dim_param = "?"
    batch, rows, _ = infer_shapes(Graph(proto)).shapes["x"]
    assert batch != rows


def test_malformed_nodes_have_no_shape() -> None:
    for snippet in ("o = Concat(x, x)", "o = Transpose<perm = [5]>(x)", "o = Split<axis = 0>(i0)"):
        proto = onnx.parser.parse_model(HEADER.replace("=> (o)", "=> (float o)") % snippet)
        proto.graph.output[0].ClearField("type")
        assert "o" not in infer_shapes(Graph(proto)).shapes
