"""Q/DQ pairs: where they stand, what they say, and what they compute."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from qfa_passes.core.passes import Contract
from qfa_passes.core.plan import StaticScales
from qfa_passes.core.site import AttentionSite, Operand
from qfa_passes.graph.ir import Graph
from qfa_passes.rewrite import InsertQdq
from tests.operator.sessions import LEVELS, run
from tests.reference.attention_cases import nmse
from tests.reference.golden_graphs import GROUPED_SITE, assert_golden, golden

SCALES = StaticScales((0.5,), (0.25,), (0.125,))


def marked(model: ModelProto, site: AttentionSite = GROUPED_SITE) -> tuple[ModelProto, int]:
    graph = Graph(model)
    changes = InsertQdq([(site, SCALES)])(graph).changes
    return graph.finish(), changes


def half_precision(kind: int = TensorProto.FLOAT16) -> ModelProto:
    """Returns the block in float16, or in bfloat16."""
    model = golden("grouped_block")
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = kind
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            half = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(kind))
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    return model


def feeds(dtype: npt.DTypeLike = np.float32) -> dict[str, npt.NDArray[np.generic]]:
    rng = np.random.default_rng(0)
    return {
        "q": (4 * rng.standard_normal((2, 4, 5, 16))).astype(dtype),
        "k": (4 * rng.standard_normal((2, 2, 9, 16))).astype(dtype),
        "v": (4 * rng.standard_normal((2, 9, 2, 8))).astype(dtype),
        "keep": rng.random((2, 1, 1, 9)) < 0.7,
    }


def oracle(inputs: dict[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.float64]:
    """The marked block in float64: every operand rounded to its own step and clamped to uint8 around 128."""

    def through(name: str, step: float) -> npt.NDArray[np.float64]:
        return np.clip(np.rint(inputs[name].astype(np.float64) / step), -128, 127) * step

    query, key = through("q", 0.5), through("k", 0.25).repeat(2, axis=1)
    value = through("v", 0.125).transpose(0, 2, 1, 3).repeat(2, axis=1)
    scores = np.where(inputs["keep"], query @ key.swapaxes(2, 3) * 0.25, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result: npt.NDArray[np.float64] = weights / weights.sum(axis=-1, keepdims=True) @ value
    return result


def test_pairs_stand_where_the_canonical_values_are() -> None:
    model, changes = marked(golden("grouped_block"))
    assert changes == 3
    assert_golden(model, "grouped_block.qdq")


def test_pass_says_what_it_promises() -> None:
    assert InsertQdq.contract is Contract.QUANTIZES
    graph = Graph(golden("grouped_block"))
    assert not InsertQdq([])(graph).modified


@pytest.mark.parametrize("level", LEVELS, ids=str)
def test_marked_block_computes_rounded_attention(level: object) -> None:
    model, _ = marked(golden("grouped_block"))
    inputs = feeds()
    (actual,) = run(model, inputs, library=False, level=level)
    # Where a value lies halfway between two codes, an optimizer may choose the other.
    assert nmse(actual, oracle(inputs)) < 1e-6


@pytest.mark.parametrize("level", LEVELS, ids=str)
def test_float16_is_widened_around_its_pair(level: object) -> None:
    """QuantizeLinear of opset 17 takes no float16."""
    model, _ = marked(half_precision())
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Cast") == 6
    inputs = feeds(np.float16)
    (actual,) = run(model, inputs, library=False, level=level)
    assert actual.dtype == np.float16
    assert nmse(actual, oracle(inputs)) < 1e-5


def test_bfloat16_is_widened_too() -> None:
    model, _ = marked(half_precision(TensorProto.BFLOAT16))
    types = [
        helper.get_attribute_value(attribute)
        for node in model.graph.node
        if node.op_type == "Cast"
        for attribute in node.attribute
    ]
    assert sorted(types) == [TensorProto.FLOAT] * 3 + [TensorProto.BFLOAT16] * 3
    onnx.checker.check_model(model, full_check=True)


def test_operands_that_have_a_pair_are_left_alone() -> None:
    site = replace(GROUPED_SITE, query=replace(GROUPED_SITE.query, scale=(0.5,)))
    model, changes = marked(golden("grouped_block"), site)
    assert changes == 2
    assert "attention/q_quantize" not in [node.name for node in model.graph.node]


def test_one_step_per_head_becomes_the_largest() -> None:
    graph = Graph(golden("grouped_block"))
    scales = StaticScales((0.1, 0.4, 0.2, 0.3), (0.25,), (0.125, 0.5))
    InsertQdq([(GROUPED_SITE, scales)])(graph)
    found = {t.name: numpy_helper.to_array(t) for t in graph.finish().graph.initializer}
    assert found["attention/q_scale"] == np.float32(0.4)
    assert found["attention/v_scale"] == np.float32(0.5)


def test_one_tensor_as_query_key_and_value_gets_three_pairs() -> None:
    node = helper.make_node("Attention", ["x", "x", "x"], ["y"], "attention")
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, "rows", 8])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2, "rows", 8])
    model = helper.make_model(
        helper.make_graph([node], "self", [value], [output]),
        opset_imports=[helper.make_opsetid("", 23)],
        ir_version=10,
    )
    operand = Operand("x", path=("attention",))
    site = replace(GROUPED_SITE, query=operand, key=operand, value=operand, output="y")
    result, changes = marked(model, site)
    assert changes == 3
    (attention,) = [node for node in result.graph.node if node.op_type == "Attention"]
    assert list(attention.input) == [f"attention/{x}_dequantize_output" for x in "qkv"]
