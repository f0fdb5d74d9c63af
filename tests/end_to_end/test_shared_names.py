"""Branches that were two models once use the same names for different things."""

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from qfa_passes import api
from qfa_passes.opened import typed
from tests.end_to_end.outcomes import float_outputs, outputs, statuses, worst
from tests.reference.golden_graphs import parse

ATTENTION = """
    q = Add (x, more)
    scores = MatMul (q, xt)
    weights = Softmax <axis = -1> (scores)
    NAME = MatMul (weights, x)
"""
MODEL = f"""
    merged (float[b, 2, s, 16] x, bool which) => (float[b, 2, s, 16] y)
    <float one = {{1}}>
    {{
        xt = Transpose <perm = [0, 1, 3, 2]> (x)
        y = If (which) <
            then_branch = then_graph () => (float[b, 2, s, 16] t)
            {{
                count = Shape (x)
                more = Expand (one, count)
                {ATTENTION.replace("NAME", "t")}
            }},
            else_branch = else_graph () => (float[b, 2, s, 16] e)
            {{
                size = Shape (x)
                count = Shape (size)
                ones = ConstantOfShape <value = int64[1] {{1}}> (count)
                unknown = Equal (size, ones)
                extent = Where (unknown, size, ones)
                more = Expand (one, extent)
                {ATTENTION.replace("NAME", "e")}
            }}>
    }}"""
"""In one branch ``count`` is four extents, in the other it is the number four."""


def ranks(model: ModelProto, branch: str) -> dict[str, int]:
    """Axes of the values in one branch, as far as they are known."""
    (chosen,) = [node for node in model.graph.node if node.op_type == "If"]
    (body,) = [item.g for item in chosen.attribute if item.name == branch]
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in body.value_info
        if value.type.tensor_type.HasField("shape")
    }


def test_shapes_of_one_branch_do_not_leak_into_another() -> None:
    found = ranks(typed(parse(MODEL, opset=18)), "else_branch")
    assert found.get("ones", 1) == 1


@pytest.mark.parametrize("which", [True, False])
def test_each_branch_keeps_its_own_shapes(which: bool) -> None:
    model = parse(MODEL, opset=18)
    onnx.checker.check_model(model, full_check=True)
    x = np.random.default_rng(0).standard_normal((2, 2, 9, 16)).astype(np.float32)
    feed = {"x": x, "which": np.array(which)}
    wanted = float_outputs(model, feed)
    assert worst(outputs(typed(model), feed, library=False), wanted) == 0
    result = api.optimize(model, verify="off")
    assert statuses(result) == ["fused", "fused"]
    assert worst(outputs(result.model, feed), wanted) < 5e-4
