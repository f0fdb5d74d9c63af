"""Whatever else is in a model survives: control flow, large and external weights, outputs taken halfway."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from qfa_passes import api
from tests.end_to_end.outcomes import (
    assert_valid,
    float_outputs,
    fused_count,
    operators,
    outputs,
    statuses,
    worst,
)
from tests.operator.sessions import LEVELS, open_session
from tests.reference.decoders import Decoder

DECODER = Decoder()


def tensor(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def assert_fused_and_right(model: ModelProto, feed: dict[str, np.ndarray]) -> ModelProto:
    """Everything is fused, and outputs agree with the original with the library and without."""
    result = api.optimize(model)
    assert statuses(result) == ["fused", "fused"]
    assert_valid(result.model)
    wanted = float_outputs(model, feed)
    assert worst(outputs(result.model, feed), wanted) < 5e-4
    assert worst(outputs(result.model, feed, library=False), wanted) < 5e-4
    return result.model


def test_branch_elsewhere_that_reads_values_of_the_main_graph() -> None:
    model = DECODER.model()
    branches = {
        name: helper.make_graph(
            [helper.make_node(op, ["x1"], [f"{name}_value"])],
            name,
            [],
            [helper.make_empty_tensor_value_info(f"{name}_value")],
        )
        for name, op in (("then_branch", "Relu"), ("else_branch", "Neg"))
    }
    model.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    model.graph.node.append(helper.make_node("If", ["flag"], ["extra"], "choice", **branches))
    model.graph.output.append(helper.make_empty_tensor_value_info("extra"))
    model.graph.output[-1].type.tensor_type.elem_type = TensorProto.FLOAT
    for flag in (True, False):
        fused = assert_fused_and_right(model, {**DECODER.feeds(), "flag": np.array(flag)})
    bodies = [item.g for item in fused.graph.node[-1].attribute] or [
        item.g for node in fused.graph.node if node.op_type == "If" for item in node.attribute
    ]
    assert {body.node[0].op_type for body in bodies} == {"Relu", "Neg"}


def test_loop_around_nothing_of_ours() -> None:
    model = DECODER.model()
    body = helper.make_graph(
        [
            helper.make_node("Add", ["state", "x1"], ["sum"]),
            helper.make_node("Identity", ["going"], ["still"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            tensor("state", "batch", "sequence", 64),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            tensor("sum", "batch", "sequence", 64),
        ],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(3, np.int64), "turns"))
    model.graph.node.append(
        helper.make_node("Loop", ["turns", "", "x0"], ["total"], "turning", body=body)
    )
    model.graph.output.append(tensor("total", "batch", "sequence", 64))
    fused = assert_fused_and_right(model, DECODER.feeds())
    assert operators(fused).count("Loop") == 1


def test_branch_that_reads_the_weights_of_attention_prevents_fusion() -> None:
    """Softmax weights that something else looks at must go on existing."""
    model = DECODER.model()
    branches = {
        name: helper.make_graph(
            [helper.make_node("Identity", ["p0"], [f"{name}_value"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_value", TensorProto.FLOAT, None)],
        )
        for name in ("then_branch", "else_branch")
    }
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    model.graph.node.append(helper.make_node("If", ["flag"], ["weights"], "choice", **branches))
    model.graph.output.append(helper.make_tensor_value_info("weights", TensorProto.FLOAT, None))
    result = api.optimize(model)
    assert statuses(result) == ["refused", "fused"]
    assert "choice" in result.report.sites[0].reason
    feed = DECODER.feeds()
    assert worst(outputs(result.model, feed), float_outputs(model, feed)) < 5e-4


@pytest.mark.parametrize(
    "value", ["q0", "k0", "v0", "k0_split", "v0_split", "o0", "kr0", "vr0_five"]
)
@pytest.mark.parametrize("stop_after", ["rewrite", "fuse"])
def test_inner_value_that_is_an_output_keeps_its_numbers(value: str, stop_after: str) -> None:
    """A key or value cache is an output: no Q/DQ pair may reach it.

    Without optimizations: ONNX Runtime 1.31 moves a pair up through a Transpose even if what is
    above it is an output of the model.
    """
    model = DECODER.model()
    model.graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, None))
    result = api.optimize(model, stop_after=stop_after)
    feed = DECODER.feeds()
    got = outputs(result.model, feed, library=stop_after == "fuse", level=LEVELS[0])
    wanted = float_outputs(model, feed)
    assert worst(got[:1], wanted[:1]) < 2e-3
    assert worst(got[1:], wanted[1:]) < (2e-3 if value == "o0" else 1e-10)


def test_second_reader_of_a_reshaped_key_keeps_its_numbers() -> None:
    model = DECODER.model()
    model.graph.node.append(helper.make_node("Relu", ["vr0_many"], ["seen"], "reader"))
    model.graph.output.append(helper.make_tensor_value_info("seen", TensorProto.FLOAT, None))
    result = api.optimize(model, stop_after="rewrite")
    feed = DECODER.feeds()
    got, wanted = outputs(result.model, feed, library=False), float_outputs(model, feed)
    assert worst(got[1:], wanted[1:]) < 1e-10


def test_output_of_attention_is_the_output_of_the_model() -> None:
    model = Decoder(layers=1).model()
    for node in list(model.graph.node):
        if node.output[0] in ("o0_rows", "o0_flat", "o0_proj", "x1", "y"):
            model.graph.node.remove(node)
    del model.graph.output[:]
    model.graph.output.append(
        helper.make_tensor_value_info("o0", TensorProto.FLOAT, ["batch", 4, "sequence", 16])
    )
    result = api.optimize(model)
    assert statuses(result) == ["fused"]
    feed = DECODER.feeds()
    assert worst(outputs(result.model, feed), float_outputs(model, feed)) < 5e-4
    assert [value.name for value in result.model.graph.output] == ["o0"]


@pytest.mark.parametrize("external", ["always", "auto"])
def test_weights_in_a_file_beside_the_model(external: str, tmp_path: Path) -> None:
    decoder = Decoder(heads=8, kv_heads=4, channels=32)
    model = decoder.model()
    onnx.save(
        onnx.ModelProto.FromString(model.SerializeToString()),
        tmp_path / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=64,
    )
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "model.onnx"
    result = api.optimize(tmp_path / "model.onnx", output=target, external_data=external)
    assert statuses(result) == ["fused", "fused"]
    assert (len(list(target.parent.iterdir())) == 2) == (external == "always")
    feed = decoder.feeds()
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(target, options, providers=["CPUExecutionProvider"])
    assert worst(session.run(None, feed), float_outputs(model, feed)) < 5e-4


def test_large_weight_of_another_operator_is_carried_over(tmp_path: Path) -> None:
    model = DECODER.model()
    table = np.random.default_rng(2).standard_normal((64, 40_000)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(table, "head"))
    model.graph.node.append(helper.make_node("MatMul", ["y", "head"], ["logits"]))
    model.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, None))
    path = tmp_path / "out.onnx"
    api.optimize(model, output=path)
    saved = onnx.load(path)
    found = next(t for t in saved.graph.initializer if t.name == "head")
    np.testing.assert_array_equal(numpy_helper.to_array(found), table)
    assert fused_count(saved) == 2


@pytest.mark.parametrize("stop_after", ["normalize", "rewrite", "fuse"])
def test_model_without_attention(stop_after: str) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        classifier (float["batch", 8] x) => (float["batch", 3] y)
        <float[8, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}>
        { s = MatMul (x, w)  y = Softmax <axis = -1> (s) }""")
    result = api.optimize(model, stop_after=stop_after, verify="full")
    assert result.report.sites == []
    assert operators(result.model) == ["MatMul", "Softmax"]
    assert len(result.model.functions) == 0
    feed = {"x": np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)}
    assert worst(outputs(result.model, feed, library=False), float_outputs(model, feed)) == 0


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("verify", ["fast", "full"])
def test_output_that_is_a_sequence(alone: bool, verify: str) -> None:
    """It cannot be compared, and need not be."""
    model = DECODER.model()
    model.graph.node.append(helper.make_node("SequenceConstruct", ["y", "q0"], ["pair"]))
    model.graph.output.append(helper.make_tensor_sequence_value_info("pair", 1, None))
    if alone:
        del model.graph.output[0]
    result = api.optimize(model, verify=verify)
    assert statuses(result) == ["fused", "fused"]
    assert set(result.report.model_nmse) == (set() if alone else {"y"})
    feed = DECODER.feeds()
    got, wanted = outputs(result.model, feed)[-1], float_outputs(model, feed)[-1]
    assert worst(list(got), list(wanted)) < 5e-4


def test_functions_and_notes_of_the_model_stay() -> None:
    model = DECODER.model()
    model.functions.append(
        helper.make_function(
            "mine",
            "Twice",
            ["x"],
            ["y"],
            [helper.make_node("Add", ["x", "x"], ["y"])],
            [helper.make_opsetid("", 17)],
        )
    )
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.node.append(helper.make_node("Twice", ["y"], ["z"], domain="mine"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    model.metadata_props.add(key="author", value="me")
    model.doc_string, model.producer_name = "a text", "someone"
    result = api.optimize(model).model
    assert {(f.domain, f.name) for f in result.functions} == {
        ("mine", "Twice"),
        ("ai.qfa", "QuantFlashAttention"),
    }
    assert [entry.key for entry in result.metadata_props] == ["author"]
    assert (result.doc_string, result.producer_name) == ("a text", "someone")
    feed = DECODER.feeds()
    assert worst(outputs(result, feed), float_outputs(model, feed)) < 5e-4


def test_original_and_optimized_share_input_and_output_names() -> None:
    model = DECODER.model()
    result = api.optimize(model).model
    for before, after in (
        (model.graph.input, result.graph.input),
        (model.graph.output, result.graph.output),
    ):
        assert [v.SerializeToString() for v in before] == [v.SerializeToString() for v in after]
    assert open_session(result, level=LEVELS[0]).get_outputs()[0].name == "y"
