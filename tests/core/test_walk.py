"""Visiting graphs and tensors."""

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from qfa_passes.core.walk import all_graphs, all_tensors


def tensor(name: str) -> TensorProto:
    return numpy_helper.from_array(np.zeros(1, np.float32), name)


def graph(name: str, *inner: GraphProto) -> GraphProto:
    """A graph with an initializer, a Constant and, in one node, other graphs."""
    nodes = [helper.make_node("Constant", [], [name], value=tensor(f"{name}.constant"))]
    nodes += [
        helper.make_node("If", ["c"], [f"{name}.if"], then_branch=g, else_branch=g) for g in inner
    ]
    return helper.make_graph(nodes, name, [], [], [tensor(f"{name}.weight")])


def test_everything_is_visited_the_main_graph_first() -> None:
    """Subgraphs of subgraphs, functions, training graphs, lists and sparse tensors."""
    model = helper.make_model(graph("main", graph("a", graph("b"))))
    model.graph.sparse_initializer.add(
        values=tensor("sparse.values"),
        indices=numpy_helper.from_array(np.zeros(1, np.int64), "sparse.indices"),
    )
    body = graph("in_function")
    function = model.functions.add(name="f", domain="d")
    function.node.append(helper.make_node("If", ["c"], ["x"], then_branch=body, else_branch=body))
    function.node.append(helper.make_node("Constant", [], ["y"], value=tensor("of_function")))
    model.training_info.add().algorithm.CopyFrom(graph("training"))
    model.graph.node.append(
        helper.make_node("Many", [], ["z"], tensors=[tensor("t1"), tensor("t2")])
    )
    names = [item.name for _, item in all_tensors(model)]
    assert names[0] == "main.weight"
    expected = {"main", "a", "b", "in_function", "training"}
    assert {item.name for item in all_graphs(model)} == expected | {
        ""
    }  # "": the empty initialization graph
    assert set(names) == {
        *(f"{name}.{kind}" for name in expected for kind in ("weight", "constant")),
        *("sparse.values", "sparse.indices", "of_function", "t1", "t2"),
    }
    assert list(all_tensors(ModelProto())) == []
