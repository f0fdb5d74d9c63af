"""Attention in model-local functions: inlined where it is fused; every other call stays."""

import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from qfa_passes import api
from qfa_passes.normalize.inline_functions import inline_attention
from tests.end_to_end.outcomes import (
    assert_valid,
    float_outputs,
    operators,
    outputs,
    statuses,
    worst,
)
from tests.scopes.functions import DECODER, calling, library_style
from tests.scopes.models import inner_nodes, merged


@pytest.mark.parametrize("scale", [0.25, 0.5, None])
def test_function_called_twice(scale: float | None) -> None:
    model = calling(scale=scale)
    result = api.optimize(model, max_error=2e-3)
    assert statuses(result) == ["fused", "fused"]
    assert [site.name for site in result.report.sites] == ["block_0/softmax", "block_1/softmax"]
    assert_valid(result.model)
    feed = DECODER.feeds()
    wanted = float_outputs(model, feed)
    assert worst(outputs(result.model, feed), wanted) < 2e-3
    assert worst(outputs(result.model, feed, library=False), wanted) < 2e-3


def test_other_functions_stay_and_idle_ones_go() -> None:
    result = api.optimize(calling()).model
    assert {function.name for function in result.functions} == {"Double", "QuantFlashAttention"}
    assert operators(result).count("Double") == 1


def test_call_that_is_excluded_stays() -> None:
    model = calling()
    result = api.optimize(model, exclude="block_1/")
    assert statuses(result) == ["fused", "exempt"]
    assert operators(result.model).count("Attend") == 1
    assert {function.name for function in result.model.functions} == {
        "Attend",
        "Double",
        "QuantFlashAttention",
    }
    feed = DECODER.feeds()
    assert worst(outputs(result.model, feed), float_outputs(model, feed)) < 5e-4


def test_nothing_is_inlined_for_nothing() -> None:
    model = calling()
    result = api.optimize(model, max_error=0.0)
    assert statuses(result) == ["restored", "restored"]
    assert operators(result.model).count("Attend") == 2
    assert [function.name for function in result.model.functions] == ["Attend", "Double"]
    feed = DECODER.feeds()
    assert worst(outputs(result.model, feed, library=False), float_outputs(model, feed)) < 1e-12


@pytest.mark.parametrize("exclude", [(), "block_0/"])
def test_an_optimized_model_is_left_as_it_is(exclude: str) -> None:
    once = api.optimize(calling(), exclude=exclude).model
    twice = api.optimize(once, exclude=exclude).model
    assert twice.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


def test_plan_of_a_run_fits_the_same_model() -> None:
    first = api.optimize(calling(), exclude="block_1/")
    second = api.optimize(calling(), plan=first.plan)
    assert statuses(second) == ["fused", "exempt"]
    assert [entry.name for entry in second.plan.sites] == [entry.name for entry in first.plan.sites]


@pytest.mark.parametrize("flag", [True, False])
def test_call_in_a_branch(flag: bool) -> None:
    inside = calling()
    del inside.graph.output[1:], inside.graph.node[-1:]
    model = merged(inside, DECODER.model())
    model.functions.extend(inside.functions)
    model.opset_import.append(inside.opset_import[-1])
    result = api.optimize(model)
    assert statuses(result) == ["fused"] * 4
    assert "choice/then_branch/block_0/softmax" in [site.name for site in result.report.sites]
    feed = {**DECODER.feeds(), "flag": np.array(flag)}
    assert worst(outputs(result.model, feed), float_outputs(model, feed)) < 5e-4


def test_branch_in_a_function() -> None:
    """The branches of a function that is called twice become bodies of the main graph."""
    model = calling()
    attend = model.functions[0]
    nodes = list(attend.node)
    bodies = {}
    for name, sign in (("then_branch", "Identity"), ("else_branch", "Neg")):
        body = helper.make_graph(
            [*nodes, helper.make_node(sign, ["o"], [f"{name}_result"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_result", 1, None)],
        )
        for node in body.node:
            node.output[0] = (
                node.output[0] if node.output[0].endswith("_result") else f"{name}_{node.output[0]}"
            )
            for position, value in enumerate(node.input):
                if value not in attend.input:
                    node.input[position] = f"{name}_{value}"
        bodies[name] = body
    del attend.node[:]
    attend.node.append(helper.make_node("If", ["flag"], ["o"], "choice", **bodies))
    attend.input.append("flag")
    model.graph.input.append(helper.make_tensor_value_info("flag", 9, []))
    for node in model.graph.node:
        if node.op_type == "Attend":
            node.input.append("flag")
    result = api.optimize(model)
    assert statuses(result) == ["fused"] * 4
    assert [n.op_type for n in inner_nodes(result.model)].count("QuantFlashAttention") == 4
    for flag in (True, False):
        feed = {**DECODER.feeds(), "flag": np.array(flag)}
        assert worst(outputs(result.model, feed), float_outputs(model, feed)) < 5e-4


def test_function_of_another_opset_stays_and_says_why() -> None:
    model = calling()
    model.functions[0].opset_import[0].version = 12
    result = api.optimize(model)
    assert statuses(result) == ["refused", "refused"]
    assert "of opset 12" in result.report.sites[0].reason
    assert operators(result.model).count("Attend") == 2


def test_body_of_our_own_operator_is_never_inlined() -> None:
    once = api.optimize(calling()).model
    again = api.optimize(once)
    assert again.report.sites == []
    assert operators(again.model).count("QuantFlashAttention") == 2


def test_names_do_not_meet() -> None:
    """Inner names of a call are new, even where the model uses names that look like them."""
    model = calling()
    model.graph.node.append(helper.make_node("Relu", ["x0"], ["block_0/q"], "block_0/softmax"))
    model.graph.output.append(model.graph.output[0])
    model.graph.output[2].name = "block_0/q"
    result = api.optimize(model)
    assert statuses(result) == ["fused", "fused"]
    assert result.report.sites[0].name == "block_0_call/softmax"
    feed = DECODER.feeds()
    assert worst(outputs(result.model, feed), float_outputs(model, feed)) < 5e-4


def test_functions_of_functions() -> None:
    model = library_style()
    result = api.optimize(model, format="float")
    assert statuses(result) == ["fused", "fused"]
    names = [site.name for site in result.report.sites]
    assert names == ["layer_0/attend/softmax/inner", "layer_1/attend/softmax/inner"]
    assert_valid(result.model)
    ops = operators(result.model)
    assert ops.count("QuantFlashAttention") == 2
    assert ops.count("Times") == 8, "projections are no part of attention"
    feed = DECODER.feeds()
    wanted = float_outputs(model, feed)
    assert worst(outputs(result.model, feed), wanted) < 1e-10
    assert worst(outputs(result.model, feed, library=False), wanted) < 1e-10
    twice = api.optimize(result.model, format="float").model
    same = twice.SerializeToString(deterministic=True)
    assert same == result.model.SerializeToString(deterministic=True)


def test_layer_that_is_excluded_stays_one_call() -> None:
    model = library_style()
    result = api.optimize(model, exclude="layer_0/")
    assert statuses(result) == ["exempt", "fused"]
    assert operators(result.model)[0] == "Block"
    feed = DECODER.feeds()
    assert worst(outputs(result.model, feed), float_outputs(model, feed)) < 5e-3


def test_outputs_that_a_call_leaves_out_and_inputs_that_it_hands_on() -> None:
    """ONNX Runtime takes no such function; the reference evaluator does."""
    model = calling()
    model.functions[0].output.extend(["s", "q_flat"])
    for node in model.graph.node:
        if node.name == "block_1":
            node.output.extend(["unread", "handed_on"])
    model.graph.output.append(model.graph.output[0])
    model.graph.output[-1].name = "handed_on"
    inlined = inline_attention(model)
    assert inlined.calls == ["block_0", "block_1"]
    del inlined.proto.functions[0]
    feed = DECODER.feeds(length=9)
    wanted = ReferenceEvaluator(model).run(None, feed)
    assert worst(outputs(inlined.proto, feed, library=False), wanted) < 1e-10
