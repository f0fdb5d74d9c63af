"""What no pass may change or break, on every model: interface, types, order, domains, notes."""

import onnx
import pytest
from onnx import ModelProto, TensorProto

from qfa_passes import api
from qfa_passes.core.opspec import DOMAIN
from qfa_passes.graph.ir import Graph
from qfa_passes.normalize import normalize_passes
from tests.metamorphic.changes import CHANGES
from tests.metamorphic.models import MODELS


def marked(model: ModelProto) -> ModelProto:
    """The model with notes on everything that can bear one."""
    model.doc_string = "about the model"
    model.graph.doc_string = "about the graph"
    model.metadata_props.add(key="note", value="on the model")
    for number, value in enumerate((*model.graph.input, *model.graph.output)):
        value.doc_string = f"value {number}"
    for number, node in enumerate(model.graph.node):
        node.metadata_props.add(key="number", value=str(number))
    return model


@pytest.mark.parametrize("stage", ["normalize", "rewrite", "fuse"])
@pytest.mark.parametrize("name", MODELS)
def test_the_interface_stays(name: str, stage: str) -> None:
    model = marked(MODELS[name]())
    result = api.optimize(model, stop_after=stage, verify="off").model
    onnx.checker.check_model(result, full_check=stage != "fuse")
    assert list(result.graph.input) == list(model.graph.input)
    assert list(result.graph.output) == list(model.graph.output)
    assert (result.doc_string, result.graph.doc_string) == (model.doc_string, "about the graph")
    assert {entry.key for entry in result.metadata_props} >= {"note"}
    before = {node.metadata_props[0].value: node.op_type for node in model.graph.node}
    kept = [node for node in result.graph.node if node.metadata_props]
    assert kept or stage == "fuse" or name in ("standard", "contributed")
    for node in kept:
        assert node.op_type in (before[node.metadata_props[0].value], "MatMul")


@pytest.mark.parametrize("name", MODELS)
def test_fused_models_import_the_domain_once(name: str) -> None:
    result = api.optimize(MODELS[name](), verify="off").model
    domains = [entry.domain for entry in result.opset_import]
    assert domains.count(DOMAIN) == 1
    assert len(domains) == len(set(domains))


@pytest.mark.parametrize("change", ["", "everything_at_once"])
@pytest.mark.parametrize("name", MODELS)
def test_every_pass_leaves_a_sound_graph(name: str, change: str) -> None:
    model = MODELS[name]()
    if change:
        model = CHANGES[change](model)
    graph = Graph(onnx.shape_inference.infer_shapes(model, data_prop=True))
    for graph_pass in normalize_passes():
        graph_pass(graph)
        proto = graph.finish()
        onnx.checker.check_model(proto)
        assert_ordered(proto)
        assert [value.name for value in proto.graph.output] == [
            value.name for value in model.graph.output
        ]


def assert_ordered(proto: ModelProto) -> None:
    """No value is read before it is computed, and none that nobody computes."""
    known = {value.name for value in (*proto.graph.input, *proto.graph.initializer)} | {""}
    for node in proto.graph.node:
        assert known.issuperset(node.input), node.name
        known.update(node.output)
    assert known.issuperset(value.name for value in proto.graph.output)


def half(name: str) -> ModelProto:
    """A model of MODELS in float16."""
    model = MODELS[name]()
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor).astype("float16")
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    return model


@pytest.mark.parametrize("name", ["rich", "packed", "standard", "everything"])
def test_half_floats_stay_half_floats(name: str) -> None:
    """Values of the model that are still there have the type that they had."""
    model = half(name)
    before = types(onnx.shape_inference.infer_shapes(model, data_prop=True))
    result = api.optimize(model, verify="off")
    assert [site.status.value for site in result.report.sites] == ["fused"]
    after = types(result.model)
    assert TensorProto.FLOAT16 in before.values()
    shared = before.keys() & after.keys()
    assert {value.name for value in model.graph.output} <= shared
    assert {key: after[key] for key in shared} == {key: before[key] for key in shared}


def types(model: ModelProto) -> dict[str, int]:
    values = (*model.graph.value_info, *model.graph.output, *model.graph.input)
    return {value.name: value.type.tensor_type.elem_type for value in values}
