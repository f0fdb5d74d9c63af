"""Shapes and types after operators of com.microsoft, against what ONNX Runtime computes."""

import numpy as np
import onnx
import pytest

from qfa_passes.graph.inferred_types import infer_types
from qfa_passes.graph.ir import Graph
from qfa_passes.graph.shape_inference import infer_shapes
from tests.graph.test_shapes import SIZES, Array, check, run_all

MODELS = {
    "norms": (
        "float[B,S,8] x, float[B,S,8] s, float[8] g, float[8] b",
        """a, , , c = com.microsoft.SkipLayerNormalization(x, s, g, b) d = com.microsoft.FastGelu(c, b)
        e = com.microsoft.BiasGelu(a, b) f, , , h = com.microsoft.SkipSimplifiedLayerNormalization(d, e, g)
        i = com.microsoft.QuickGelu(f) y = Add(h, i)""",
    ),
    "embeddings": (
        "int32[B,S] x, float[20,8] w, float[9,8] p, float[8] g, float[8] b",
        "a, m = com.microsoft.EmbedLayerNormalization(x, , w, p, , g, b) y = Relu(a)",
    ),
    "products": (
        "float[B,3,S,8] x, float[B,3,T,8] k, float[8,6] w",
        """a = com.microsoft.FusedMatMul <transB = 1, alpha = 0.5> (x, k) b = Relu(a)
        c = com.microsoft.FusedMatMul (x, w) y = Relu(c)""",
    ),
    "integer products": (
        "float[B,S,8] x, int8[8,6] w",
        """q, s, z = DynamicQuantizeLinear(x) p = MatMulInteger(q, w, z) f = Cast <to = 1> (p) a = Mul(f, s)
        y = Relu(a)""",
    ),
    "merged attention": (
        "float[B,S,8] x, float[8,24] w, float[24] b",
        "a = com.microsoft.Attention <num_heads = 2> (x, w, b) y = Relu(a)",
    ),
    "attention": (
        "float[B,S,8] x, float[B,T,8] k, float[B,T,6] v",
        "a = com.microsoft.MultiHeadAttention <num_heads = 2> (x, k, v) y = Relu(a)",
    ),
}


def feeds_of(proto: onnx.ModelProto) -> dict[str, Array]:
    generator = np.random.default_rng(0)
    feeds: dict[str, Array] = {}
    for value in proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        shape = [SIZES.get(dim.dim_param, dim.dim_value) for dim in dims]
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        feeds[value.name] = (3 * generator.random(shape)).astype(kind)
    return feeds


@pytest.mark.parametrize("name", MODELS)
def test_shapes_and_types(name: str) -> None:
    inputs, body = MODELS[name]
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> g ({inputs}) => (float y) {{ {body} }}'
    )
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    graph = Graph(onnx.shape_inference.infer_shapes(proto))
    infer_types(graph)
    values = run_all(proto, feeds_of(proto))
    known = infer_shapes(graph)
    check(known, values, SIZES)
    for name, value in values.items():
        shape = known.shapes.get(name)
        assert shape is not None, name
        assert tuple(dim.at(SIZES) for dim in shape) == value.shape, name
        assert graph.tensors()[name].dtype == value.dtype, name
