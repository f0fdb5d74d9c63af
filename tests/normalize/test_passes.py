"""Each pass: the graph before and after in ONNX text, and the same bits in ONNX Runtime."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto

from qfa_passes.graph.graph_pass import GraphPass, run_passes
from qfa_passes.graph.ir import Graph
from qfa_passes.normalize import NORMALIZE
from qfa_passes.normalize.fold_quantized_scalars import FoldQuantizedScalars
from qfa_passes.normalize.fold_shapes import FoldShapes
from qfa_passes.normalize.lift_constants import LiftConstants
from qfa_passes.normalize.merge_casts import MergeCasts
from qfa_passes.normalize.remove_identity import RemoveIdentity

Array = npt.NDArray[Any]

HEADER = '<ir_version: 8, opset_import: ["": 17]> g '
GOLDEN: dict[str, tuple[GraphPass, str, str]] = {
    "constant node": (
        LiftConstants(),
        "(float[B,4] x) => (float[B,4] y) { c = Constant<value = float {2.0}>() y = Mul(x, c) }",
        "(float[B,4] x) => (float[B,4] y) <float c = {2.0}> { y = Mul(x, c) }",
    ),
    "constant numbers": (
        LiftConstants(),
        """(float[B,4] x) => (float[B,4] y) {
            c = Constant<value_float = 2.0>() d = Constant<value_ints = [1, 4]>()
            e = Mul(x, c) y = Expand(e, d)
        }""",
        """(float[B,4] x) => (float[B,4] y) <float c = {2.0}, int64[2] d = {1, 4}> {
            e = Mul(x, c) y = Expand(e, d)
        }""",
    ),
    "constant that is an output": (
        LiftConstants(),
        "(float[B,4] x) => (float[B,4] y, float c) { c = Constant<value = float {2.0}>() y = Mul(x, c) }",
        "(float[B,4] x) => (float[B,4] y, float c) { c = Constant<value = float {2.0}>() y = Mul(x, c) }",
    ),
    "identity": (
        RemoveIdentity(),
        "(float[B,4] x) => (float[B,4] y) { a = Identity(x) b = Identity(a) y = Mul(b, a) }",
        "(float[B,4] x) => (float[B,4] y) { y = Mul(x, x) }",
    ),
    "identity of an output": (
        RemoveIdentity(),
        "(float[B,4] x) => (float[B,4] y) { a = Relu(x) y = Identity(a) }",
        "(float[B,4] x) => (float[B,4] y) { a = Relu(x) y = Identity(a) }",
    ),
    "cast to the same type": (
        RemoveIdentity(),
        "(float[B,4] x) => (float[B,4] y) { a = Cast<to = 1>(x) y = Relu(a) }",
        "(float[B,4] x) => (float[B,4] y) { y = Relu(x) }",
    ),
    "casts there and back": (
        MergeCasts(),
        "(float[B,4] x) => (float[B,4] y) { a = Cast<to = 11>(x) b = Cast<to = 1>(a) y = Relu(b) }",
        "(float[B,4] x) => (float[B,4] y) { b = Cast<to = 1>(x) y = Relu(b) }",
    ),
    "chain of casts": (
        MergeCasts(),
        """(bool[B,4] x) => (float[B,4] y) {
            a = Cast<to = 6>(x) b = Cast<to = 7>(a) c = Cast<to = 10>(b) y = Cast<to = 1>(c)
        }""",
        "(bool[B,4] x) => (float[B,4] y) { y = Cast<to = 1>(x) }",
    ),
    "casts that round": (
        MergeCasts(),
        "(float[B,4] x) => (float[B,4] y) { a = Cast<to = 10>(x) b = Cast<to = 1>(a) y = Relu(b) }",
        "(float[B,4] x) => (float[B,4] y) { a = Cast<to = 10>(x) b = Cast<to = 1>(a) y = Relu(b) }",
    ),
    "transposes there and back": (
        RemoveIdentity(),
        """(float[B,4,5] x) => (float[B,4,5] y) {
            a = Transpose<perm = [1, 2, 0]>(x) b = Transpose<perm = [2, 0, 1]>(a) y = Relu(b)
        }""",
        "(float[B,4,5] x) => (float[B,4,5] y) { y = Relu(x) }",
    ),
    "transpose that keeps all axes": (
        RemoveIdentity(),
        "(float[B,4] x) => (float[B,4] y) { a = Transpose<perm = [0, 1]>(x) y = Relu(a) }",
        "(float[B,4] x) => (float[B,4] y) { y = Relu(x) }",
    ),
    "transposes of which one is an output": (
        RemoveIdentity(),
        """(float[B,4] x) => (float[B,4] y, float[4,B] a) {
            a = Transpose<perm = [1, 0]>(x) b = Transpose<perm = [1, 0]>(a) y = Relu(b)
        }""",
        """(float[B,4] x) => (float[B,4] y, float[4,B] a) {
            a = Transpose<perm = [1, 0]>(x) y = Relu(x)
        }""",
    ),
    "transposes of which the second is an output": (
        RemoveIdentity(),
        """(float[B,4] x) => (float[B,4] y) {
            a = Transpose<perm = [1, 0]>(x) y = Transpose<perm = [1, 0]>(a)
        }""",
        """(float[B,4] x) => (float[B,4] y) {
            a = Transpose<perm = [1, 0]>(x) y = Transpose<perm = [1, 0]>(a)
        }""",
    ),
    "other transposes": (
        RemoveIdentity(),
        """(float[B,4,5] x) => (float[5,B,4] y) {
            a = Transpose<perm = [1, 2, 0]>(x) b = Transpose<perm = [1, 2, 0]>(a) y = Relu(b)
        }""",
        """(float[B,4,5] x) => (float[5,B,4] y) {
            a = Transpose<perm = [1, 2, 0]>(x) b = Transpose<perm = [1, 2, 0]>(a) y = Relu(b)
        }""",
    ),
    "cast to another type": (
        RemoveIdentity(),
        "(float[B,4] x) => (float[B,4] y) { a = Cast<to = 10>(x) y = Cast<to = 1>(a) }",
        "(float[B,4] x) => (float[B,4] y) { a = Cast<to = 10>(x) y = Cast<to = 1>(a) }",
    ),
    "dropout": (
        RemoveIdentity(),
        "(float[B,4] x) => (float[B,4] y) { a = Dropout(x) y = Relu(a) }",
        "(float[B,4] x) => (float[B,4] y) { y = Relu(x) }",
    ),
    "dropout whose mask is used": (
        RemoveIdentity(),
        "(float[B,4] x) => (float[B,4] y) { a, m = Dropout(x) n = Not(m) y = Where(n, x, a) }",
        "(float[B,4] x) => (float[B,4] y) { a, m = Dropout(x) n = Not(m) y = Where(n, x, a) }",
    ),
    "shape arithmetic": (
        FoldShapes(),
        """(float[B,6] x) => (float[B,2,3] y) <int64 one = {1}, int64 two = {2}, int64[1] z = {0}> {
            s = Shape(x) d = Gather(s, one) h = Div(d, two) t = Unsqueeze(two, z) u = Unsqueeze(h, z)
            b = Concat<axis = 0>(z, t, u) y = Reshape(x, b)
        }""",
        """(float[B,6] x) => (float[B,2,3] y) <int64[3] b = {0, 2, 3}> { y = Reshape(x, b) }""",
    ),
    "shape arithmetic that depends on the run": (
        FoldShapes(),
        """(float[B,6] x) => (int64 h) <int64 zero = {0}, int64 two = {2}> {
            s = Shape(x) d = Gather(s, zero) h = Mul(d, two)
        }""",
        """(float[B,6] x) => (int64 h) <int64 zero = {0}, int64 two = {2}> {
            s = Shape(x) d = Gather(s, zero) h = Mul(d, two)
        }""",
    ),
    "value that a body reads": (
        RemoveIdentity(),
        """(float[B,4] x, bool c) => (float[B,4] y) {
            a = Identity(x)
            y = If(c) < then_branch = t () => (float[B,4] p) { p = Relu(a) },
                        else_branch = e () => (float[B,4] q) { q = Neg(a) } >
        }""",
        """(float[B,4] x, bool c) => (float[B,4] y) {
            a = Identity(x)
            y = If(c) < then_branch = t () => (float[B,4] p) { p = Relu(a) },
                        else_branch = e () => (float[B,4] q) { q = Neg(a) } >
        }""",
    ),
    "constant that a body reads": (
        LiftConstants(),
        """(float[B,4] x, bool c) => (float[B,4] y) {
            a = Constant<value = float {2.0}>()
            y = If(c) < then_branch = t () => (float[B,4] p) { p = Mul(x, a) },
                        else_branch = e () => (float[B,4] q) { q = Neg(x) } >
        }""",
        """(float[B,4] x, bool c) => (float[B,4] y) <float a = {2.0}> {
            y = If(c) < then_branch = t () => (float[B,4] p) { p = Mul(x, a) },
                        else_branch = e () => (float[B,4] q) { q = Neg(x) } >
        }""",
    ),
    "constant number that was quantized": (
        FoldQuantizedScalars(),
        """(float[B,4] x) => (float[B,4] y) <float c = {0.3}, float s = {0.25}, uint8 z = {3}> {
            q = QuantizeLinear(c, s, z) d = DequantizeLinear(q, s, z) y = Mul(x, d)
        }""",
        "(float[B,4] x) => (float[B,4] y) <float d = {0.25}> { y = Mul(x, d) }",
    ),
    "numbers that were quantized": (
        FoldQuantizedScalars(),
        """(float[B,2] x) => (float[B,2] y) <int8[2] c = {3, 4}, float s = {0.5}, int8 z = {3}> {
            d = DequantizeLinear(c, s, z) y = Mul(x, d)
        }""",
        """(float[B,2] x) => (float[B,2] y) <int8[2] c = {3, 4}, float s = {0.5}, int8 z = {3}> {
            d = DequantizeLinear(c, s, z) y = Mul(x, d)
        }""",
    ),
    "same operator of another domain": (
        RemoveIdentity(),
        "(float[B,4] x) => (float[B,4] y) { a = other.Identity(x) y = Relu(a) }",
        "(float[B,4] x) => (float[B,4] y) { a = other.Identity(x) y = Relu(a) }",
    ),
}


def parsed(text: str) -> ModelProto:
    """A model from the text after the header."""
    header = HEADER.replace("17]", '17, "other": 1]') if "other." in text else HEADER
    return onnx.parser.parse_model(header + text)


def text_of(proto: ModelProto) -> str:
    """Nodes and initializers, without node names and types of inner values."""
    bare = ModelProto()
    bare.CopyFrom(proto)
    del bare.graph.value_info[:]
    for node in bare.graph.node:
        node.ClearField("name")
    for tensor in bare.graph.initializer:  # one form for numbers
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name)
        )
    bare.graph.initializer.sort(key=lambda tensor: tensor.name)
    return str(onnx.printer.to_text(bare))


def outputs(proto: ModelProto) -> list[Array]:
    """Outputs for fixed inputs."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds: dict[str, Array] = {}
    for value in session.get_inputs():
        shape = [3 if isinstance(dim, str) else dim for dim in value.shape]
        data = np.random.default_rng(0).standard_normal(shape)
        feeds[value.name] = (
            data.astype(np.float32) if "float" in value.type else np.asarray(data > 0)
        )
    return list(session.run(None, feeds))


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name: str) -> None:
    graph_pass, before, after = GOLDEN[name]
    source = onnx.shape_inference.infer_shapes(parsed(before))
    graph = Graph(source)
    result = graph_pass(graph)
    assert result.name == graph_pass.name
    changed = graph.finish()
    assert text_of(changed) == text_of(parsed(after))
    unchanged = text_of(parsed(before)) == text_of(parsed(after))
    assert result.modified != unchanged
    if "other." not in before:
        onnx.checker.check_model(changed, full_check=True)
        for left, right in zip(outputs(source), outputs(changed), strict=True):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_second_time_changes_nothing(name: str) -> None:
    once = Graph(onnx.shape_inference.infer_shapes(parsed(GOLDEN[name][1])))
    run_passes(once, NORMALIZE)
    proto = once.finish()
    twice = Graph(onnx.shape_inference.infer_shapes(proto))
    assert not any(result.modified for result in run_passes(twice, NORMALIZE))
    assert text_of(twice.finish()) == text_of(proto)
