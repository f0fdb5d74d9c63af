"""Faults of our own passes, planted into an optimized model: verification must notice each."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from qfa_passes import api, pipeline
from qfa_passes.calibrate import capture
from qfa_passes.core.comparison import Verdict
from qfa_passes.core.formats import INT8_BOUND
from qfa_passes.core.model import LoadedModel
from qfa_passes.core.opspec import OP_TYPE, input_index
from qfa_passes.core.plan import SitePlan
from qfa_passes.core.site import AttentionSite
from qfa_passes.data import read_data
from qfa_passes.fuse.replay import replay_model, site_values
from qfa_passes.graph.ir import Graph
from qfa_passes.load import read_model
from qfa_passes.verify.models import verify_models
from qfa_passes.verify.sites import measure_site

TINY = Path(__file__).parents[2] / "models" / "tiny_lm"
CONTEXT = 128
Mutation = Callable[[GraphProto, NodeProto], None]


@pytest.fixture(scope="module")
def source() -> LoadedModel:
    return read_model(TINY / "tiny_lm.onnx")


@pytest.fixture(scope="module")
def fused() -> LoadedModel:
    return api.optimize(TINY / "tiny_lm.onnx", rotate="none").loaded


def verdict(source: LoadedModel, other: LoadedModel) -> Verdict:
    data = read_data(TINY / "heldout.txt", source, samples=4, context=CONTEXT)
    return verify_models(source, other, data).guard.verdict


def fused_nodes(graph: GraphProto) -> list[NodeProto]:
    return [node for node in graph.node if node.op_type == OP_TYPE]


def attribute(node: NodeProto, name: str) -> object:
    return next(item for item in node.attribute if item.name == name)


def flip_scale(graph: GraphProto, node: NodeProto) -> None:
    attribute(node, "scale").f *= -1


def forget_scale(graph: GraphProto, node: NodeProto) -> None:
    attribute(node, "scale").f = 1.0


def swap_key_and_value(graph: GraphProto, node: NodeProto) -> None:
    node.input[1], node.input[2] = node.input[2], node.input[1]


def drop_causality(graph: GraphProto, node: NodeProto) -> None:
    attribute(node, "is_causal").i = 0


def see_one_key_more(graph: GraphProto, node: NodeProto) -> None:
    drop_causality(graph, node)
    set_mask(graph, node, np.tril(np.ones((CONTEXT, CONTEXT), bool), 1))


def see_one_key_less(graph: GraphProto, node: NodeProto) -> None:
    mask = np.tril(np.ones((CONTEXT, CONTEXT), bool), -1)
    mask[0, 0] = True
    set_mask(graph, node, mask)


def set_mask(graph: GraphProto, node: NodeProto, mask: np.ndarray) -> None:
    name = f"{node.output[0]}_mask"
    graph.initializer.append(numpy_helper.from_array(mask[None, None], name))
    index = input_index("attn_mask")
    node.input.extend([""] * (index + 1 - len(node.input)))
    node.input[index] = name


def swap_heads(graph: GraphProto, node: NodeProto, operand: int, order: list[int]) -> None:
    name = f"{node.output[0]}_order"
    graph.initializer.append(numpy_helper.from_array(np.array(order), name))
    swapped = f"{node.input[operand]}_{name}"
    pick = helper.make_node("Gather", [node.input[operand], name], [swapped], axis=1)
    position = next(n for n, other in enumerate(graph.node) if other is node or other == node)
    graph.node.insert(position, pick)
    node.input[operand] = swapped


def wrong_key_heads(graph: GraphProto, node: NodeProto) -> None:
    swap_heads(graph, node, 1, [1, 0])


def interleaved_query_heads(graph: GraphProto, node: NodeProto) -> None:
    # The mistake of taking query head h to key head h % Hkv instead of h // G.
    swap_heads(graph, node, 0, [0, 2, 4, 1, 3, 5])


MUTATIONS = [
    flip_scale,
    forget_scale,
    swap_key_and_value,
    drop_causality,
    see_one_key_more,
    see_one_key_less,
    wrong_key_heads,
    interleaved_query_heads,
]


def test_the_optimized_model_passes(source: LoadedModel, fused: LoadedModel) -> None:
    assert len(fused_nodes(fused.proto.graph)) == 4
    assert verdict(source, fused) is Verdict.PASS


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_fault_of_the_passes_fails_the_model(
    mutate: Mutation, source: LoadedModel, fused: LoadedModel
) -> None:
    proto = ModelProto()
    proto.CopyFrom(fused.proto)
    for node in fused_nodes(proto.graph):
        mutate(proto.graph, node)
    assert verdict(source, replace(fused, proto=proto)) is Verdict.FAIL


@pytest.fixture(scope="module")
def captured(source: LoadedModel) -> tuple[AttentionSite, dict[str, np.ndarray], int]:
    """The second site of the float model with what flows through it on real text."""
    normal = pipeline.normalize(source)
    site = [entry for entry in pipeline.match(normal) if isinstance(entry, AttentionSite)][1]
    data = read_data(TINY / "heldout.txt", source, samples=1, context=CONTEXT)
    (values,) = capture(normal, [*site_values(site), site.output], data.feeds)
    return site, values, Graph(normal.proto).opset


def site_error(
    captured: tuple[AttentionSite, dict[str, np.ndarray], int], mutate: Mutation | None
) -> float:
    site, values, opset = captured
    replay = replay_model(site, SitePlan(site.name), None, values, opset)
    if mutate is not None:
        mutate(replay.graph, fused_nodes(replay.graph)[0])
    return measure_site(site, replay, [values], library=True).nmse


def test_a_sound_site_is_within_its_bound(captured: tuple) -> None:
    assert site_error(captured, None) < INT8_BOUND


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_fault_at_one_site_exceeds_its_bound(mutate: Mutation, captured: tuple) -> None:
    # One layer of four may hardly move the whole model; the site itself tells at once.
    assert site_error(captured, mutate) > 10 * INT8_BOUND
