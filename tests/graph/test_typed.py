"""Types and shapes where control flow stands between."""

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from qfa_passes.graph.typed import typed

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
outer (float["B", "S", 8] x, bool c) => (float[a, b] y)
{
    r = If (c) <
        then_branch = yes () => (float<SHAPE> t) { t = Relu (x) },
        else_branch = no () => (float<SHAPE> e) { e = Neg (x) }
    >
    z = Transpose <perm = [0, 2, 1]> (r)
    shape = Shape (z)
    w = Reshape (z, shape)
    y = ReduceSum <keepdims = 0> (w, last)
}"""


def shape_of(proto: ModelProto, name: str) -> list[object] | None:
    value = next((entry for entry in proto.graph.value_info if entry.name == name), None)
    if value is None or not value.type.tensor_type.HasField("shape"):
        return None
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("declared", ['["B", "S", 8]', ""])
def test_what_follows_control_flow_has_a_shape(declared: str) -> None:
    """Whether the branches declare their results or not."""
    proto = onnx.parser.parse_model(TEXT.replace("<SHAPE>", declared))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2]), "last"))
    if not declared:
        for item in proto.graph.node[0].attribute:
            item.g.output[0].type.tensor_type.ClearField("shape")
    before = [item.g.SerializeToString() for item in proto.graph.node[0].attribute]
    result = typed(proto)
    assert shape_of(result, "z") == ["B", 8, "S"]
    assert shape_of(result, "w") == ["B", 8, "S"]
    after = [item.g.SerializeToString() for item in result.graph.node[0].attribute]
    assert after == before
