"""bfloat16 operands and results in ONNX Runtime, which numpy lacks: casts stand around the node."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from qfa_passes.core import opspec
from qfa_passes.quant.attention import attention_float64
from qfa_passes.quant.cache import KeyValueCache, append
from qfa_passes.quant.masking import Masking
from tests.operator.caches import (
    attend,
    cache_node,
    codings,
    constants_of,
    is_integer,
    past_of,
    present_names,
)
from tests.operator.sessions import VALID, Array, open_session, qkv, run
from tests.operator.test_coded_cache import check_tensors
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


@pytest.mark.parametrize("name", codings(16, 16))
def test_caches(name: str) -> None:
    """New tokens in bfloat16, and the open keys of an int4 cache too."""
    coding = codings(16, 16)[name]
    inputs = {key: rounded(x) for key, x in qkv(2, 5, 5).items()}
    past = {key: rounded(x) for key, x in qkv(2, 1, 70).items()}
    cache = KeyValueCache.of(coding, past["key"], past["value"])
    expected = append(cache, inputs["key"], inputs["value"])
    feeds = inputs | past_of(cache) | constants_of(coding)
    model = cache_node(cache, feeds)
    narrow = {"query", "key", "value", "output", "past_key_open", "present_key_open"}
    if name == "float":
        narrow |= {"past_key", "past_value", "present_key", "present_value"}
    (node,) = model.graph.node
    before, after = [], []
    for tensors, casts, to, outward in (
        (node.input, before, TensorProto.BFLOAT16, False),
        (node.output, after, TensorProto.FLOAT, True),
    ):
        for index, tensor in enumerate(tensors):
            if tensor in narrow:
                tensors[index] = f"{tensor}_b"
                ends = (tensors[index], tensor) if outward else (tensor, tensors[index])
                casts.append(helper.make_node("Cast", ends[:1], ends[1:], to=to))
    del model.graph.node[:]
    model.graph.node.extend([*before, node, *after])
    output, *present = run(model, feeds)
    names = [x for x in present_names(cache)[1:] if x]
    check_tensors(dict(zip(names, present, strict=True)), expected)
    exact, _ = attend(inputs["query"], expected)
    np.testing.assert_array_equal(output, rounded(output))
    assert nmse(output, exact) <= (5e-4 if is_integer(coding) else 1e-4)
