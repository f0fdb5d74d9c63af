"""Changes of a model that change nothing about its attention: the same sites, and the same near misses."""

from collections import Counter

import onnx
import pytest
from onnx import ModelProto, NodeProto, helper

from qfa_passes import api
from qfa_passes.core.outcome import SiteStatus, Standing
from qfa_passes.core.site import AttentionSite
from qfa_passes.graph.ir import Graph
from qfa_passes.match import find_sites
from tests.match.blocks import Block, find, refusal_of, site_of
from tests.match.oracle import check_site
from tests.metamorphic.changes import CHANGES
from tests.metamorphic.facts import facts_of, refusals_of
from tests.metamorphic.models import MODELS, NEAR_MISSES, rich

COUNTS = {"branch": 2}


@pytest.mark.parametrize("name", MODELS)
def test_the_models_themselves(name: str) -> None:
    model = MODELS[name]()
    onnx.checker.check_model(model)
    assert facts_of(model).total() == COUNTS.get(name, 1)
    assert refusals_of(model) == 0


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", MODELS)
def test_the_same_sites_after(name: str, change: str) -> None:
    changed = CHANGES[change](MODELS[name]())
    onnx.checker.check_model(changed)
    assert facts_of(changed) == facts_of(MODELS[name]())
    assert refusals_of(changed) == 0


@pytest.mark.parametrize("name", MODELS)
def test_what_is_found_after_all_changes_is_proven(name: str) -> None:
    changed = CHANGES["everything_at_once"](MODELS[name]())
    report = api.optimize(changed, format="float", rotate="none", dry_run=True).report
    assert {site.status for site in report.sites} == {SiteStatus.FUSED}
    assert {site.proof and site.proof.standing for site in report.sites} == {Standing.PROVEN}


@pytest.mark.parametrize("change", ["", *CHANGES])
@pytest.mark.parametrize("name", NEAR_MISSES)
def test_a_near_miss_stays_one(name: str, change: str) -> None:
    model = NEAR_MISSES[name].model()
    if change:
        model = CHANGES[change](model)
    assert facts_of(model) == Counter()


@pytest.mark.parametrize("format", ["int8", "float"])
@pytest.mark.parametrize("name", MODELS)
def test_optimizing_twice_changes_nothing_more(name: str, format: str) -> None:
    once = api.optimize(MODELS[name](), format=format).model
    twice = api.optimize(once, format=format).model
    assert twice.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


def test_the_rich_block() -> None:
    site = check_site(rich(), {"S": 6, "T": 6})
    assert (site.num_heads, site.kv_num_heads, site.qk_channels, site.v_channels) == (4, 2, 8, 6)
    assert site.scale == pytest.approx(8**-0.5)
    assert (site.mask.causal, [term.tensor for term in site.mask.terms]) == (True, ["keep"])
    assert site.notes == ("2-fold repeated heads folded", "NaN guard folded")


@pytest.mark.parametrize("change", CHANGES)
def test_the_rich_block_computes_what_its_site_says_after(change: str) -> None:
    check_site(CHANGES[change](rich()), {"S": 6, "T": 6})


def test_two_blocks_that_share_their_mask_are_two_sites() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    pair (float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,T,6] v, float[S,T] m) => (float[B,4,S,6] a, float[B,4,S,6] b)
    {
        kt = Transpose<perm=[0,1,3,2]>(k)
        s1 = MatMul(q, kt)  m1 = Add(s1, m)  p1 = Softmax(m1)  a = MatMul(p1, v)
        s2 = MatMul(q, kt)  m2 = Add(s2, m)  p2 = Softmax(m2)  b = MatMul(p2, v)
    }
    """
    sites = find(onnx.parser.parse_model(text))
    assert [site.output for site in sites if isinstance(site, AttentionSite)] == ["a", "b"]


def test_a_long_model_is_matched_in_linear_time() -> None:
    """300 blocks and a chain of 5,000 nodes."""
    block = Block().model()
    graph = block.graph
    for number in range(1, 300):
        for node in Block().model().graph.node:
            copy = NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [name if name in "qkv" else f"{name}_{number}" for name in node.input]
            copy.output[:] = [f"{name}_{number}" for name in node.output]
            copy.name = f"{node.name}_{number}"
            graph.node.append(copy)
        graph.output.add(name=f"o_{number}")
    for number in range(5_000):
        graph.node.append(
            helper.make_node("Relu", [f"r{number - 1}" if number else "q"], [f"r{number}"])
        )
    graph.output.add(name="r4999")
    sites = find_sites(Graph(onnx.shape_inference.infer_shapes(block)))
    assert len(sites) == 300 and all(isinstance(site, AttentionSite) for site in sites)


def test_doubling_adds_are_refused_in_linear_time() -> None:
    doubled = " ".join(f"x{n + 1} = Add(x{n}, x{n})" for n in range(20))
    block = Block(scores="x0 = MatMul(q, kt)", mask=f"{doubled} y = Add(x20, x20)")
    assert "adds the scores to themselves" in refusal_of(block.model()).reason


def test_a_constant_in_place_of_the_scores_is_no_mask() -> None:
    model: ModelProto = Block(
        constants="float one = {1.0}, bool[1] all = {1}", mask="y = Where(all, one, x)"
    ).model()
    assert facts_of(model) == Counter()
    assert site_of(Block().model()).mask.terms == ()
