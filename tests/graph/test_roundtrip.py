"""Import and export lose nothing; editing keeps what it does not touch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from qfa_passes.errors import InvalidModelError
from qfa_passes.graph.edit import bypass
from qfa_passes.graph.ir import Graph, name_nodes

TINY_LM = Path(__file__).parents[2] / "models" / "tiny_lm" / "tiny_lm.onnx"

BRANCHES = """
<ir_version: 8, opset_import: ["": 17, "other": 3]>
branches (float[N] x, bool c) => (float[N] y)
<float two = {2.0}>
{
    a = Relu(x)
    b = Neg(x)
    y = If (c) <
        then_branch = then () => (float[N] t) { t = Mul(a, two) },
        else_branch = other () => (float[N] e) {
            e = If (c) <
                then_branch = in () => (float[N] i) { i = Abs(b) },
                else_branch = out () => (float[N] o) { o = Identity(b) }
            >
        }
    >
}
"""


def branches() -> ModelProto:
    """A model whose bodies capture two values and a constant, one of them from two levels up."""
    model = onnx.parser.parse_model(BRANCHES)
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}"
    return model


def same(left: ModelProto, right: ModelProto) -> None:
    """Compares two models apart from the order of initializers and types."""
    for model in (left, right):
        model.graph.initializer.sort(key=lambda tensor: tensor.name)
        model.graph.value_info.sort(key=lambda value: value.name)
    assert list(left.graph.node) == list(right.graph.node)
    assert left == right


def test_real_model() -> None:
    model = onnx.load(TINY_LM)
    used = {name for node in model.graph.node for name in node.input}
    assert used.issuperset(tensor.name for tensor in model.graph.initializer)
    same(Graph(model).finish(), model)


def test_bodies() -> None:
    onnx.checker.check_model(branches())
    same(Graph(branches()).finish(), branches())


def with_metadata(model: ModelProto) -> None:
    model.metadata_props.add(key="author", value="me")
    model.doc_string, model.producer_name, model.model_version = "about", "maker", 7
    model.graph.metadata_props.add(key="k", value="v")
    model.graph.doc_string = "graph"
    model.graph.node[0].doc_string = "node"
    model.graph.node[0].metadata_props.add(key="scope", value="layer.0")


def with_overload(model: ModelProto) -> None:
    model.graph.node.append(
        helper.make_node("Thing", ["x"], ["thing"], name="thing", domain="other", overload="second")
    )
    model.graph.output.add(name="thing")


def with_functions(model: ModelProto) -> None:
    body = [helper.make_node("Relu", ["a"], ["b"])]
    imports = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("other", "F", ["a"], ["b"], body, imports))
    model.graph.node.append(helper.make_node("F", ["x"], ["f"], name="f", domain="other"))
    model.graph.output.add(name="f")


def with_odd_attributes(model: ModelProto) -> None:
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32)),
        numpy_helper.from_array(np.zeros(1, np.int64)),
        [4],
    )
    node = helper.make_node("Thing", ["x"], ["thing"], name="thing", domain="other")
    node.attribute.extend(
        [
            AttributeProto(name="bytes", type=AttributeProto.STRING, s=b"\xff\x00"),
            AttributeProto(name="text", type=AttributeProto.STRING, s=b"plain"),
            AttributeProto(name="none", type=AttributeProto.INTS),
            AttributeProto(name="empty", type=AttributeProto.STRING),
            AttributeProto(name="sparse", type=AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse),
            helper.make_attribute("ints", [1, 2]),
            helper.make_attribute("floats", [1.0, 2.0]),
            helper.make_attribute("tensor", numpy_helper.from_array(np.eye(2))),
            helper.make_attribute(
                "type", helper.make_tensor_type_proto(TensorProto.FLOAT, [None, 3])
            ),
        ]
    )
    node.attribute[0].doc_string = "described"
    model.graph.node.append(node)
    model.graph.output.add(name="thing")


def with_odd_types(model: ModelProto) -> None:
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [3])
    kinds = {
        "sequence": helper.make_sequence_type_proto(tensor),
        "optional": helper.make_optional_type_proto(tensor),
        "map": helper.make_map_type_proto(TensorProto.INT64, tensor),
    }
    for name, kind in kinds.items():
        model.graph.input.append(helper.make_value_info(f"{name}_in", kind))
        model.graph.output.append(helper.make_value_info(f"{name}_out", kind))
        model.graph.value_info.append(helper.make_value_info(f"{name}_mid", kind))
        for source, target in (("in", "mid"), ("mid", "out")):
            model.graph.node.append(
                helper.make_node(
                    "Identity", [f"{name}_{source}"], [f"{name}_{target}"], name=f"{name}_{target}"
                )
            )


def with_odd_tensors(model: ModelProto) -> None:
    kinds = {
        TensorProto.BFLOAT16: b"\x80\x3f",
        TensorProto.FLOAT8E4M3FN: b"\x38",
        TensorProto.INT4: b"\x07",
        TensorProto.FLOAT16: b"\x00\x3c",
        TensorProto.COMPLEX64: bytes(8),
    }
    for kind, data in kinds.items():
        name = f"t{kind}"
        model.graph.initializer.add(name=name, data_type=kind, dims=[1], raw_data=data)
        model.graph.node.append(
            helper.make_node("Thing", [name], [f"o{kind}"], name=name, domain="other")
        )
        model.graph.output.add(name=f"o{kind}")
    model.graph.initializer.append(
        helper.make_tensor("text", TensorProto.STRING, [2], [b"a", b"\xff"])
    )
    model.graph.node.append(helper.make_node("Thing", ["text"], ["t"], name="t", domain="other"))
    model.graph.output.add(name="t")


def with_skipped_inputs_and_outputs(model: ModelProto) -> None:
    model.graph.node.append(
        helper.make_node("Thing", ["", "x", ""], ["", "thing"], name="thing", domain="other")
    )
    model.graph.output.add(name="thing")


def with_default_input(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("two", TensorProto.FLOAT, []))


def with_symbols(model: ModelProto) -> None:
    dims = ["batch", None, 3, "batch*seq + 1"]
    model.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, dims))
    model.graph.value_info[-1].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"


def with_old_inputs(model: ModelProto) -> None:
    model.ir_version = 3
    with_default_input(model)


CASES: list[Callable[[ModelProto], None]] = [
    with_metadata,
    with_overload,
    with_functions,
    with_odd_attributes,
    with_odd_types,
    with_odd_tensors,
    with_skipped_inputs_and_outputs,
    with_default_input,
    with_old_inputs,
    with_symbols,
]


@pytest.mark.parametrize("change", CASES)
def test_nothing_is_lost(change: Callable[[ModelProto], None]) -> None:
    model = branches()
    change(model)
    wanted = ModelProto()
    wanted.CopyFrom(model)
    result = Graph(model).finish()
    assert model == wanted  # the import works on a copy
    same(result, wanted)


def test_default_of_an_input_is_no_constant() -> None:
    model = branches()
    with_default_input(model)
    assert not isinstance(Graph(model).tensors()["two"], gs.Constant)


def test_domain_of_the_standard_operators_has_one_name() -> None:
    model = branches()
    model.graph.node[0].domain = "ai.onnx"
    result = Graph(model).finish()
    assert {node.domain for node in result.graph.node} == {""}
    assert result.opset_import == model.opset_import


def test_used_domains_are_imported() -> None:
    graph = Graph(branches())
    output = gs.Variable(graph.new_name("new"))
    graph.add(gs.Node("New", "new", {}, [graph.tensors()["x"]], [output], domain="ai.qfa"))
    graph.gs.outputs.append(output)
    imports = {entry.domain: entry.version for entry in graph.finish().opset_import}
    assert imports == {"": 17, "other": 3, "ai.qfa": 1}


def test_captured_values_stay_alive_under_their_names() -> None:
    model = branches()
    del model.graph.node[:2]
    model.graph.node.insert(0, helper.make_node("Identity", ["x"], ["a"], name="ia"))
    model.graph.node.insert(1, helper.make_node("Identity", ["x"], ["b"], name="ib"))
    graph = Graph(model)
    assert not bypass(graph, graph.node_index()["ia"])
    assert not bypass(graph, graph.node_index()["ib"])
    assert graph.is_captured(graph.tensors()["two"])
    assert not graph.is_captured(graph.tensors()["x"])
    ort.InferenceSession(graph.finish().SerializeToString(), providers=["CPUExecutionProvider"])


def test_new_names_avoid_those_inside_bodies() -> None:
    graph = Graph(branches())
    assert graph.new_name("t") == "t_1"
    assert graph.new_name("i") != "i"
    assert graph.new_name("t") not in ("t", "t_1")
    assert graph.new_name("fresh") == "fresh"


def test_nodes_get_unique_names() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], [f"r{n}"], name=name)
        for n, name in enumerate(["", "a", "a", "a_1", ""])
    ]
    outputs = [helper.make_tensor_value_info(f"r{n}", TensorProto.FLOAT, None) for n in range(5)]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    model = helper.make_model(helper.make_graph(nodes, "g", [x], outputs))
    names = [node.name for node in Graph(model).finish().graph.node]
    assert names == ["Relu_r0", "a", "a_2", "a_1", "Relu_r4"]


def test_order_is_kept_and_new_nodes_go_where_they_must() -> None:
    model = branches()
    graph = Graph(model)
    index = graph.node_index()
    output = gs.Variable(graph.new_name("doubled"), dtype=np.float32)
    x = graph.tensors()["x"]
    graph.add(gs.Node("Add", "double", {}, [x, x], [output]))
    index["n1"].inputs[0] = output
    names = [node.name for node in graph.finish().graph.node]
    assert names == ["n0", "double", "n1", "n2"]


def test_dead_code_goes() -> None:
    model = branches()
    model.graph.node.append(helper.make_node("Relu", ["a"], ["dead"], name="dead"))
    result = Graph(model).finish()
    assert [node.name for node in result.graph.node] == ["n0", "n1", "n2"]


def test_cycle_is_an_error() -> None:
    model = branches()
    model.graph.node[0].input[0] = "b"
    model.graph.node[1].input[0] = "a"
    with pytest.raises(InvalidModelError, match="needs its own result"):
        Graph(model).finish()


def test_many_nodes_of_one_name_are_named_in_linear_time() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([], "g", [x], [x])
    graph.node.extend(
        NodeProto(op_type="Relu", name="same", input=["x"], output=[f"r{n}"]) for n in range(20_000)
    )
    name_nodes(graph)
    assert len({node.name for node in graph.node}) == 20_000


def test_declared_extents_outlive_the_value_that_they_were_declared_of() -> None:
    """Inference cannot tell the product's extents; the export declares them behind an Identity."""
    proto = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[a, b] x, int64[2] to) => (float[c, d] z)
        <float[seq, 8] y>
        { r = Reshape(x, to) y = Identity(r) z = Relu(y) }
        """
    )
    graph = Graph(onnx.shape_inference.infer_shapes(proto))
    (identity,) = [node for node in graph.nodes if node.op == "Identity"]
    assert bypass(graph, identity)
    (value,) = [value for value in graph.finish().graph.value_info if value.name == "r"]
    dims = value.type.tensor_type.shape.dim
    assert (dims[0].dim_param, dims[1].dim_value) == ("seq", 8)
