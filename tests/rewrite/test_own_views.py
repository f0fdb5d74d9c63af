"""Views that others read too are doubled, so that a Q/DQ pair reaches its block alone."""

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from qfa_passes import api
from qfa_passes.core.dataset import DataSet
from qfa_passes.core.plan import StaticScales
from qfa_passes.core.site import Operand
from qfa_passes.graph.ir import Graph
from qfa_passes.match import find_sites
from qfa_passes.rewrite import InsertQdq
from qfa_passes.rewrite.own_views import blocked_view
from tests.operator.sessions import run
from tests.reference.attention_cases import nmse
from tests.reference.golden_graphs import GROUPED_SITE, golden, parse

SCALES = StaticScales((0.03,), (0.03,), (0.03,))


def feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "q": rng.standard_normal((2, 4, 5, 16)).astype(np.float32),
        "k": rng.standard_normal((2, 2, 9, 16)).astype(np.float32),
        "v": rng.standard_normal((2, 9, 2, 8)).astype(np.float32),
        "keep": rng.random((2, 1, 1, 9)) < 0.7,
    }


def shared() -> ModelProto:
    """The block, two of whose views are seen from outside: one by a node, one as an output."""
    model = golden("grouped_block")
    model.graph.node.append(helper.make_node("Relu", ["k_many"], ["seen"], "reader"))
    for name, rank in (("seen", 5), ("v_heads", 4)):
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank)
        model.graph.output.append(value)
    return model


def test_others_read_what_they_did() -> None:
    model = shared()
    graph = Graph(model)
    assert InsertQdq([(GROUPED_SITE, SCALES)])(graph).changes == 3
    marked = graph.finish()
    onnx.checker.check_model(marked, full_check=True)
    wanted = run(model, feeds(), library=False)
    actual = run(marked, feeds(), library=False)
    assert 0 < nmse(actual[0], wanted[0]) < 2e-3
    for got, exact in zip(actual[1:], wanted[1:], strict=True):
        np.testing.assert_array_equal(got, exact)


def test_the_block_is_found_again_through_its_own_views() -> None:
    graph = Graph(shared())
    InsertQdq([(GROUPED_SITE, SCALES)])(graph)
    (site,) = find_sites(Graph(graph.finish()))
    assert site.quantized
    assert (site.query.tensor, site.key.tensor, site.value.tensor) == ("q", "k", "v")


def test_whole_run_fuses_it() -> None:
    model = shared()
    result = api.optimize(model, calibration=DataSet((feeds(),), "a test"))
    assert [site.status.value for site in result.report.sites] == ["fused"]
    wanted, actual = (run(proto, feeds(), library=False) for proto in (model, result.model))
    assert nmse(actual[0], wanted[0]) < 5e-4
    for got, exact in zip(actual[1:], wanted[1:], strict=True):
        np.testing.assert_array_equal(got, exact)


def test_views_that_nobody_else_reads_are_not_doubled() -> None:
    graph = Graph(golden("grouped_block"))
    before = len(graph.nodes)
    InsertQdq([(GROUPED_SITE, SCALES)])(graph)
    assert len(graph.finish().graph.node) == before + 6


def test_reading_only_the_shape_of_a_view_is_no_matter() -> None:
    model = golden("grouped_block")
    model.graph.node.append(helper.make_node("Shape", ["k_many"], ["sizes"], "measure"))
    model.graph.output.append(helper.make_tensor_value_info("sizes", TensorProto.INT64, None))
    graph = Graph(model)
    before = len(graph.nodes)
    InsertQdq([(GROUPED_SITE, SCALES)])(graph)
    assert len(graph.finish().graph.node) == before + 6


def test_query_and_key_of_one_view() -> None:
    """The view that Q is, and that K is a transpose of, is doubled for each."""
    model = parse("""
        self (float[b, rows, 2, 16] x) => (float[b, 2, rows, 16] y)
        <float scale = {0.25}>
        {
            heads = Transpose <perm = [0, 2, 1, 3]> (x)
            turned = Transpose <perm = [0, 1, 3, 2]> (heads)
            scores = MatMul (heads, turned)
            scaled = Mul (scores, scale)
            weights = Softmax <axis = -1> (scaled)
            y = MatMul (weights, heads)
        }""")
    x = np.random.default_rng(0).standard_normal((2, 9, 2, 16)).astype(np.float32)
    result = api.optimize(model)
    assert [site.status.value for site in result.report.sites] == ["fused"]
    (wanted,), (actual,) = (run(proto, {"x": x}, library=False) for proto in (model, result.model))
    assert nmse(actual, wanted) < 5e-4


@pytest.mark.parametrize("who", ["node 'reader'", "the model output 'seen'"])
def test_a_view_that_cannot_be_doubled_is_told(who: str) -> None:
    model = parse("""
        odd (float[b, 4, rows, 16] q, float[b, 4, 16, keys] k) => (float[b, 4, rows, keys] s)
        {
            [odd] seen = mine.Same (q)
            [product] s = MatMul (seen, k)
        }""")
    if who.startswith("node"):
        model.graph.node.append(helper.make_node("Relu", ["seen"], ["r"], "reader"))
    name = "r" if who.startswith("node") else "seen"
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    graph = Graph(model)
    assert blocked_view(graph, Operand("q", path=("odd", "product"))) == who
    assert blocked_view(graph, Operand("k", path=("product",))) is None
