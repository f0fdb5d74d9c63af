"""A body out of its graph and back: the same model, with nothing copied and no name taken twice."""

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from qfa_passes.graph.ir import Graph
from qfa_passes.graph.scopes import BodyPlace, OuterScope, bodies_of, body_at, put_back
from qfa_passes.graph.typed import typed
from tests.end_to_end.outcomes import assert_valid, outputs

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
outer (float["B", "S", 8] x, bool c, float["B", "S", 8] kept) => (float["B", "S", 8] y)
<float[1] one = {1}, float[1] two = {2}>
{
    a = Relu (x)
    shape = Shape (x)
    wide = Concat <axis = 1> (x, kept)
    [choice] y = If (c) <
        then_branch = yes () => (float["B", "S", 8] t) { u = Add (a, one)  t = Mul (u, two) },
        else_branch = no () => (float["B", "S", 8] e) { w = Slice (wide, zeros, lengths, axes)  e = Add (w, one) }
    >
}"""

THEN = BodyPlace("choice", "then_branch")
ELSE = BodyPlace("choice", "else_branch")


def model() -> ModelProto:
    proto: ModelProto = onnx.parser.parse_model(TEXT)
    for name, value in (("zeros", [0]), ("lengths", [5]), ("axes", [1])):
        proto.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    return typed(proto)


def feeds(flag: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, 8)).astype(np.float32)
    return {"x": x, "c": np.array(flag), "kept": x[:, ::-1].copy()}


def test_places() -> None:
    assert [str(place) for place, _, _ in bodies_of(model().graph)] == [
        "choice/then_branch",
        "choice/else_branch",
    ]
    with pytest.raises(LookupError):
        body_at(model().graph, BodyPlace("other", "then_branch"))


def test_captured_values_are_inputs_and_constants_are_initializers() -> None:
    taken = OuterScope(model()).take_out(THEN)
    assert (taken.formal, taken.captured, taken.constants) == ((), ("a",), ("one", "two"))
    assert [value.name for value in taken.proto.graph.input] == ["a"]
    assert [dim.dim_param or dim.dim_value for dim in shape(taken.proto, "a")] == ["B", "S", 8]
    assert_valid(taken.proto)


def shape(proto: ModelProto, name: str) -> list[onnx.TensorShapeProto.Dimension]:
    value = next(entry for entry in proto.graph.input if entry.name == name)
    return list(value.type.tensor_type.shape.dim)


def test_extents_that_only_the_outer_graph_knows_have_a_name_of_their_own() -> None:
    taken = OuterScope(model()).take_out(ELSE)
    batch, length, width = shape(taken.proto, "wide")
    assert (batch.dim_param, width.dim_value) == ("B", 8)
    assert "S" in length.dim_param
    assert length.dim_param != "S"


@pytest.mark.parametrize("flag", [True, False])
def test_put_back_unchanged_it_computes_the_same(flag: bool) -> None:
    proto = model()
    wanted = outputs(proto, feeds(flag), library=False)
    for place in (THEN, ELSE):
        taken = OuterScope(proto).take_out(place)
        changed = typed(Graph(taken.proto).finish())
        put_back(proto, place, taken, changed)
        body = body_at(proto.graph, place)
        assert (len(body.input), len(body.initializer)) == (0, 0)
        assert not [v for v in body.value_info if "outside" in str(v)]
    assert_valid(proto)
    np.testing.assert_array_equal(outputs(proto, feeds(flag), library=False), wanted)


@pytest.mark.parametrize("kind", ["constant", "value"])
def test_new_names_do_not_hide_outer_ones(kind: str) -> None:
    """The outer graph uses ``kept`` and ``shape``; the body, which knows neither, makes its own."""
    proto = model()
    taken = OuterScope(proto).take_out(THEN)
    changed = ModelProto()
    changed.CopyFrom(taken.proto)
    name = "kept" if kind == "value" else "shape"
    if kind == "constant":
        changed.graph.initializer.append(numpy_helper.from_array(np.array([2], np.float32), name))
        changed.graph.node[1].input[1] = name
    else:
        changed.graph.node[0].output[0] = name
        changed.graph.node[1].input[0] = name
    put_back(proto, THEN, taken, changed)
    assert_valid(proto)
    wanted = outputs(model(), feeds(True), library=False)
    np.testing.assert_array_equal(outputs(proto, feeds(True), library=False), wanted)


def test_formal_inputs_get_the_types_that_the_operator_tells() -> None:
    body = helper.make_graph(
        [
            helper.make_node("Add", ["state", "state"], ["sum"]),
            helper.make_node("Identity", ["going"], ["still"]),
        ],
        "body",
        [onnx.ValueInfoProto(name=name) for name in ("turn", "going", "state")],
        [onnx.ValueInfoProto(name=name) for name in ("still", "sum")],
    )
    node = helper.make_node("Loop", ["turns", "", "x"], ["y"], "turning", body=body)
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(
        [node], "g", [value], [result], [numpy_helper.from_array(np.array(2), "turns")]
    )
    taken = OuterScope(typed(helper.make_model(graph))).take_out(BodyPlace("turning", "body"))
    kinds = [entry.type.tensor_type.elem_type for entry in taken.proto.graph.input]
    assert kinds == [TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT]


def test_result_of_a_branch_that_is_called_like_that_of_its_node_keeps_its_name() -> None:
    proto = model()
    body = body_at(proto.graph, THEN)
    body.node[1].output[0] = body.output[0].name = "y"
    taken = OuterScope(proto).take_out(THEN)
    put_back(proto, THEN, taken, typed(Graph(taken.proto).finish()))
    assert [value.name for value in body_at(proto.graph, THEN).output] == ["y"]
    wanted = outputs(model(), feeds(True), library=False)
    np.testing.assert_array_equal(outputs(proto, feeds(True), library=False), wanted)
