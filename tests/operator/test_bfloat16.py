"""bfloat16 operands and results in ONNX Runtime, which numpy lacks: casts stand around the node."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from qfa_passes.core import opspec
from qfa_passes.quant.attention import attention_float64
from qfa_passes.quant.masking import Masking
from tests.operator.sessions import VALID, Array, open_session, qkv
from tests.reference.attention_cases import nmse


def rounded(x: Array) -> Array:
    """Rounds float32 to the nearest bfloat16, ties to even."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)


@pytest.mark.parametrize("extras", [(), ("attn_bias", "sink"), ("past_key", "past_value")])
def test_bfloat16(extras: tuple[str, ...]) -> None:
    rng = np.random.default_rng(2)
    inputs = qkv(2, 5, 70) | {
        "attn_bias": rng.standard_normal((5, 70)).astype(np.float32),
        "sink": rng.standard_normal(4).astype(np.float32),
        "past_key": rng.standard_normal((2, 2, 0, 16)).astype(np.float32),
        "past_value": rng.standard_normal((2, 2, 0, 16)).astype(np.float32),
    }
    used = ("query", "key", "value", *extras)
    inputs = {name: rounded(x) for name, x in inputs.items() if name in used}
    names = [f"{spec.name}_b" if spec.name in used else "" for spec in opspec.INPUTS]
    while not names[-1]:
        names.pop()
    nodes = [
        helper.make_node("Cast", [name], [f"{name}_b"], to=TensorProto.BFLOAT16) for name in used
    ]
    nodes.append(helper.make_node(opspec.OP_TYPE, names, ["o_b"], domain=opspec.DOMAIN, **VALID))
    nodes.append(helper.make_node("Cast", ["o_b"], ["output"], to=TensorProto.FLOAT))
    graph = helper.make_graph(
        nodes,
        "bfloat16",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, inputs[name].shape)
            for name in used
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(opspec.DOMAIN, 1)]
    session = open_session(helper.make_model(graph, opset_imports=imports, ir_version=8))
    (output,) = session.run(None, inputs)
    np.testing.assert_array_equal(output, rounded(output))
    arrays = (inputs["query"], inputs["key"], inputs["value"])
    masking = Masking(bias=inputs.get("attn_bias"))
    expected = attention_float64(*arrays, scale=0.25, masking=masking, sink=inputs.get("sink"))
    assert nmse(output, expected) <= 5e-4
