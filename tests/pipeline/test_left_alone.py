"""What was written out and then not fused is exactly what it was."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from qfa_passes import api
from qfa_passes.core.plan import Plan
from qfa_passes.left_alone import LeftAlone
from qfa_passes.load import read_model
from qfa_passes.opened import match_scopes, open_model
from qfa_passes.plan.plan_file import write_plan
from tests.end_to_end.outcomes import float_outputs, operators, outputs, statuses, worst
from tests.pipeline.fused_sources import feeds, with_contrib
from tests.scopes.models import inner_nodes, merged


def node(model: ModelProto, name: str) -> onnx.NodeProto:
    return next(entry for entry in inner_nodes(model) if entry.name == name)


def test_everything_is_fused() -> None:
    model = with_contrib()
    result = api.optimize(model)
    assert statuses(result) == ["fused", "fused"]
    assert "MultiHeadAttention" not in operators(result.model)
    assert worst(outputs(result.model, feeds()), float_outputs(model, feeds())) < 1e-3


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"exclude": "attend_1"}, ["fused", "exempt"]),
        ({"attention": "none"}, ["exempt", "exempt"]),
        ({"max_error": 0.0}, ["restored", "restored"]),
    ],
    ids=["excluded", "no format", "out of bound"],
)
def test_operator_that_is_not_fused_stays(options: dict[str, str], wanted: list[str]) -> None:
    model = with_contrib()
    result = api.optimize(model, **options)
    assert statuses(result) == wanted
    for number, status in enumerate(wanted):
        if status != "fused":
            assert node(result.model, f"attend_{number}") == node(model, f"attend_{number}")
    ops = operators(result.model)
    assert ops.count("MultiHeadAttention") == sum(status != "fused" for status in wanted)
    assert "Softmax" not in ops
    twice = api.optimize(result.model, **options)
    assert statuses(twice) == [status for status in wanted if status != "fused"]
    before = result.model.SerializeToString(deterministic=True)
    assert twice.model.SerializeToString(deterministic=True) == before


def test_order_of_the_report_is_that_of_the_graph() -> None:
    result = api.optimize(with_contrib(3), exclude="attend_1")
    assert statuses(result) == ["fused", "exempt", "fused"]
    assert [entry.name.split("/")[0] for entry in result.report.sites] == [
        "attend_0",
        "attend_1",
        "attend_2",
    ]


def test_plan_names_what_was_left_alone(tmp_path: Path) -> None:
    first = api.optimize(with_contrib(), exclude="attend_1")
    write_plan(first.plan, tmp_path / "plan.toml")
    second = api.optimize(with_contrib(), plan=tmp_path / "plan.toml")
    assert statuses(second) == ["fused", "exempt"]
    before = first.model.SerializeToString(deterministic=True)
    assert second.model.SerializeToString(deterministic=True) == before


def test_stages_are_told_once_though_they_run_again() -> None:
    result = api.optimize(with_contrib(), max_error=0.0)
    stages = [timing.stage for timing in result.report.timings]
    assert len(stages) == len(set(stages))
    assert len(result.report.warnings) == len(set(result.report.warnings))


@pytest.mark.parametrize("flag", [True, False])
def test_in_a_branch(flag: bool) -> None:
    model = merged(with_contrib(2), with_contrib(1))
    result = api.optimize(model, exclude="then_branch/attend_1")
    assert sorted(statuses(result)) == ["exempt", "fused", "fused"]
    ops = [entry.op_type for entry in inner_nodes(result.model)]
    assert ops.count("MultiHeadAttention") == 1
    feed = {**feeds(), "flag": np.array(flag)}
    assert worst(outputs(result.model, feed), float_outputs(model, feed)) < 1e-3
    twice = api.optimize(result.model, exclude="then_branch/attend_1").model
    before = result.model.SerializeToString(deterministic=True)
    assert twice.SerializeToString(deterministic=True) == before


def test_operator_that_a_fused_block_needs_stays_written_out() -> None:
    """If a block is not understood any more without what was written out, it is written out again."""
    left = LeftAlone()
    source = read_model(with_contrib())
    scopes = match_scopes(open_model(source))
    (first, second) = [site.name for scope in scopes for site in scope.sites]
    assert left.idle(scopes, [first]) == {"attend_1"}
    left.by_choice({"attend_1"}, scopes, {second: "excluded"})
    assert not left.take_back(match_scopes(open_model(source, left.origins)))
    assert list(left.outcomes) == [second]
    assert left.idle(scopes, [first, second]) == set()
    left.add({"attend_0"}, scopes, Plan(), {}, 1.0)
    assert left.take_back(match_scopes(open_model(source, left.origins)))
    assert left.origins == {"attend_1"}
    assert list(left.outcomes) == [second]
    assert left.idle(scopes, [second]) == set()
