"""Attention in the branches of an If: fused like any other, with nothing captured lost and nothing copied."""

import numpy as np
import pytest

from qfa_passes import api
from qfa_passes.core.site import AttentionSite
from tests.end_to_end.outcomes import assert_valid, float_outputs, outputs, statuses, worst
from tests.scopes.models import flagged, inner_nodes, merged_decoder

SITES = [
    "choice/else_branch/attention_0",
    "choice/then_branch/attention_0",
    "choice/then_branch/attention_1",
]


def test_sites_are_named_by_their_path() -> None:
    found = api.inspect(merged_decoder())
    assert all(isinstance(entry, AttentionSite) for entry in found)
    assert sorted(entry.name for entry in found) == SITES


@pytest.mark.parametrize("flag", [True, False])
def test_both_branches_are_fused_and_right(flag: bool) -> None:
    model = merged_decoder()
    result = api.optimize(model)
    assert statuses(result) == ["fused"] * 3
    assert_valid(result.model)
    wanted = float_outputs(model, flagged(flag))
    assert worst(outputs(result.model, flagged(flag)), wanted) < 5e-4
    assert worst(outputs(result.model, flagged(flag), library=False), wanted) < 5e-4


def test_both_branches_are_compared_though_only_one_is_taken() -> None:
    report = api.optimize(merged_decoder()).report
    assert set(report.model_nmse) == {
        "result",
        "choice/then_branch/then_result",
        "choice/else_branch/else_result",
    }
    assert any("sites in choice/then_branch" in text for text in report.warnings)


def test_shared_weights_stay_outside_and_single() -> None:
    model = merged_decoder()
    result = api.optimize(model).model
    names = [tensor.name for tensor in result.graph.initializer]
    assert len(names) == len(set(names))
    assert {"wq0", "wk0", "wv0", "wo0", "wq1"} <= set(names)
    for node in result.graph.node:
        for attribute in node.attribute:
            large = [t.name for t in attribute.g.initializer if np.prod(t.dims) > 16]
            assert large == []
    weights = sum(len(tensor.raw_data) for tensor in result.graph.initializer)
    assert weights <= sum(len(tensor.raw_data) for tensor in model.graph.initializer) + 64


def test_what_only_the_old_bodies_read_goes_away() -> None:
    result = api.optimize(merged_decoder()).model
    assert "lowest" not in [tensor.name for tensor in result.graph.initializer]


def test_an_optimized_model_is_left_as_it_is() -> None:
    once = api.optimize(merged_decoder()).model
    twice = api.optimize(once).model
    assert twice.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


def test_excluded_by_path() -> None:
    result = api.optimize(merged_decoder(), exclude="then_branch/attention_1")
    assert statuses(result) == ["fused", "fused", "exempt"]
    ops = [node.op_type for node in inner_nodes(result.model)]
    assert (ops.count("QuantFlashAttention"), ops.count("Softmax")) == (2, 1)


def test_body_without_a_fused_site_stays_as_it_was() -> None:
    model = merged_decoder()
    result = api.optimize(model, exclude="else_branch").model
    before, after = (
        next(item.g for item in each.graph.node[-1].attribute if item.name == "else_branch")
        for each in (model, result)
    )
    assert before == after


@pytest.mark.parametrize("flag", [True, False])
def test_quantized_form_of_both_branches(flag: bool) -> None:
    model = merged_decoder()
    result = api.optimize(model, stop_after="rewrite")
    ops = [node.op_type for node in inner_nodes(result.model)]
    assert ops.count("QuantizeLinear") == 9
    wanted = float_outputs(model, flagged(flag))
    assert worst(outputs(result.model, flagged(flag), library=False), wanted) < 2e-3


@pytest.mark.parametrize("flag", [True, False])
def test_normalized_form_is_exact(flag: bool) -> None:
    model = merged_decoder()
    result = api.optimize(model, stop_after="normalize", verify="full")
    wanted = float_outputs(model, flagged(flag))
    assert worst(outputs(result.model, flagged(flag), library=False), wanted) < 1e-12


def test_rotation_is_the_same_in_all_scopes() -> None:
    result = api.optimize(merged_decoder(), rotate="hadamard")
    fused = [node for node in inner_nodes(result.model) if node.op_type == "QuantFlashAttention"]
    words = {item.s for node in fused for item in node.attribute if item.name == "rotate"}
    assert (len(fused), words) == (3, {b"hadamard"})
    assert len(result.model.functions) == 1
