"""A site that int8 cannot hold is fused in float among others in int8, and told so."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper

from qfa_passes import api
from qfa_passes.__main__ import main
from qfa_passes.core.formats import AttentionFormat
from qfa_passes.core.plan import Plan, SitePlan
from qfa_passes.fuse.fused_nodes import fused_nodes
from qfa_passes.plan.plan_file import read_plan, write_plan
from tests.end_to_end.outcomes import (
    assert_valid,
    float_outputs,
    fused_count,
    operators,
    outputs,
    statuses,
    worst,
)
from tests.operator.sessions import LEVELS
from tests.reference.decoders import Decoder
from tests.reference.outliers import outlier_model
from tests.scopes.models import merged, prefixed

DECODER = Decoder(layers=3)
HARD = 1
INT8, FLOAT = AttentionFormat.INT8, AttentionFormat.FLOAT
MIXED = [INT8, FLOAT, INT8]


def hard_model(decoder: Decoder = DECODER) -> ModelProto:
    return outlier_model(decoder, HARD)


def formats(model: ModelProto) -> dict[str, str]:
    """compute_format of each node, by the name of its site; also in bodies."""
    return {
        node.name.removesuffix("/QuantFlashAttention"): attribute(node, "compute_format").decode()
        for node in (entry.node for entry in fused_nodes(model))
    }


def attribute(node: NodeProto, name: str) -> Any:
    return next(helper.get_attribute_value(item) for item in node.attribute if item.name == name)


def planned(plan: Plan) -> list[AttentionFormat]:
    return [entry.format for entry in plan.sites]


@pytest.fixture(scope="module")
def result() -> api.Optimized:
    return api.optimize(hard_model(), rotate="none")


def test_the_hard_site_is_fused_in_float(result: api.Optimized) -> None:
    assert_valid(result.model)
    assert statuses(result) == ["fused"] * 3
    assert formats(result.model) == {
        "attention_0": "int8",
        "attention_1": "float",
        "attention_2": "int8",
    }
    assert planned(result.plan) == MIXED
    assert [site.format for site in result.report.sites] == MIXED
    assert "Softmax" not in operators(result.model)


def test_its_error_is_that_of_float(result: api.Optimized) -> None:
    easy, hard, _ = result.report.sites
    assert hard.reason.startswith("in float: int8 NMSE ")
    assert hard.reason.endswith(" is above the bound 5.00e-04")
    assert hard.bound == 1e-9
    assert hard.nmse is not None and hard.nmse < 1e-11
    assert not easy.reason
    assert easy.bound == 5e-4


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
@pytest.mark.parametrize(("library", "bound"), [(True, 5e-4), (False, 1e-9)])
def test_the_model_stays_what_it_was(
    result: api.Optimized, library: bool, bound: float, level: Any
) -> None:
    """Where formats are mixed the body quantizes nothing, so that it is closer than the kernel."""
    feed = DECODER.feeds()
    got = outputs(result.model, feed, library=library, level=level)
    assert worst(got, float_outputs(hard_model(), feed)) < bound


@pytest.mark.parametrize("rotate", ["auto", "none", "hadamard"])
def test_scores_so_large_that_codes_move_them(rotate: str) -> None:
    """As in models that do not scale their scores."""
    model, feed = DECODER.model(), DECODER.feeds()
    for tensor in model.graph.initializer:
        if tensor.name == f"wq{HARD}":
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor) * 16, tensor.name)
            )
    made = api.optimize(model, rotate=rotate)
    assert statuses(made) == ["fused"] * 3
    assert planned(made.plan)[:2] == [INT8, FLOAT]
    wanted = float_outputs(model, feed)
    forced = worst(outputs(api.optimize(model, rotate=rotate, max_error=1.0).model, feed), wanted)
    assert worst(outputs(made.model, feed), wanted) < forced  # such scores magnify earlier errors
    assert worst(outputs(made.model, feed, library=False), wanted) < 1e-9


def test_half_precision() -> None:
    decoder = Decoder(layers=3, dtype="float16")
    model, feed = hard_model(decoder), decoder.feeds()
    made = api.optimize(model, rotate="none")
    assert planned(made.plan) == MIXED
    assert made.report.sites[HARD].bound == 5e-5
    wanted = float_outputs(model, feed)
    assert worst(outputs(made.model, feed), wanted) < 1e-3
    assert worst(outputs(made.model, feed, library=False), wanted) < 1e-4


def test_putting_it_in_float_is_what_helps(result: api.Optimized) -> None:
    feed = DECODER.feeds()
    wanted = float_outputs(hard_model(), feed)
    forced = api.optimize(hard_model(), rotate="none", max_error=1.0)
    assert set(formats(forced.model).values()) == {"int8"}
    assert worst(outputs(result.model, feed), wanted) < 0.5 * worst(
        outputs(forced.model, feed), wanted
    )


def test_optimizing_again_changes_nothing(result: api.Optimized) -> None:
    again = api.optimize(result.model, rotate="none")
    assert again.report.sites == []
    assert again.model.SerializeToString(deterministic=True) == result.model.SerializeToString(
        deterministic=True
    )


def test_the_plan_comes_back(result: api.Optimized, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    write_plan(result.plan, path)
    assert 'format = "float"' in path.read_text()
    assert 'note = "int8 NMSE ' in path.read_text()
    assert read_plan(path) == result.plan
    again = api.optimize(hard_model(), plan=path)
    assert again.plan == result.plan
    assert again.report.sites == result.report.sites
    assert again.model.SerializeToString(deterministic=True) == result.model.SerializeToString(
        deterministic=True
    )


def test_a_plan_may_mix_formats_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text("""
        schema_version = 1
        [[site]]
        name = "attention_0"
        format = "float"
        [[site]]
        name = "attention_1"
        rotate = "hadamard"
    """)
    model, feed = DECODER.model(), DECODER.feeds()
    made = api.optimize(model, plan=path)
    assert formats(made.model) == {
        "attention_0": "float",
        "attention_1": "int8",
        "attention_2": "int8",  # those that are not named follow those in int8
    }
    assert [site.reason for site in made.report.sites] == ["", "", ""]
    rotations = [attribute(entry.node, "rotate") for entry in fused_nodes(made.model)]
    assert rotations == [b"none", b"hadamard", b"hadamard"]
    wanted = float_outputs(model, feed)
    assert worst(outputs(made.model, feed), wanted) < 5e-4
    assert worst(outputs(made.model, feed, library=False), wanted) < 1e-9


def test_a_plan_that_asks_for_int8_is_held_to_the_bound(result: api.Optimized) -> None:
    every = api.optimize(hard_model(), rotate="none", max_error=1.0).plan
    assert planned(every) == [INT8] * 3
    held = api.optimize(hard_model(), plan=every)
    assert planned(held.plan) == MIXED
    assert held.report.sites == result.report.sites


def test_what_is_left_alone_by_choice_stays(result: api.Optimized, tmp_path: Path) -> None:
    excluded = api.optimize(hard_model(), rotate="none", exclude="attention_1")
    assert statuses(excluded) == ["fused", "exempt", "fused"]
    assert set(formats(excluded.model).values()) == {"int8"}
    path = tmp_path / "plan.toml"
    write_plan(result.plan, path)
    path.write_text(path.read_text().replace('format = "float"', 'format = "none"'))
    assert statuses(api.optimize(hard_model(), plan=path)) == ["fused", "exempt", "fused"]


def test_nothing_is_measured_without_verification() -> None:
    assert set(formats(api.optimize(hard_model(), verify="off").model).values()) == {"int8"}


def test_float_alone_counts_as_a_match() -> None:
    decoder = Decoder(layers=1)
    made = api.optimize(outlier_model(decoder, 0), rotate="none", require_match=True)
    assert list(formats(made.model).values()) == ["float"]


def test_static_steps_and_float_in_one_model() -> None:
    """Nodes in float have no steps, and the body reads none."""
    feed = DECODER.feeds()
    made = api.optimize(hard_model(), scale_mode="static", max_error=2e-3)
    assert_valid(made.model)
    assert list(formats(made.model).values()) == ["int8", "float", "int8"]
    assert planned(made.plan) == MIXED
    modes = [attribute(entry.node, "scale_mode") for entry in fused_nodes(made.model)]
    assert modes == [b"static", b"dynamic", b"static"]
    wanted = float_outputs(hard_model(), feed)
    assert worst(outputs(made.model, feed, library=False), wanted) < 1e-9
    assert worst(outputs(made.model, feed), wanted) < 5e-2  # steps of other inputs


def branches(other: Decoder) -> ModelProto:
    """A decoder with a hard block in one branch, another in the other."""
    return merged(outlier_model(Decoder(), HARD), prefixed(other.model(seed=5), "other_"))


@pytest.mark.parametrize("flag", [True, False])
def test_branches_share_a_body(flag: bool) -> None:
    model = branches(Decoder())
    made = api.optimize(model, rotate="none")
    assert_valid(made.model)
    assert statuses(made) == ["fused"] * 4
    assert planned(made.plan).count(FLOAT) == 1
    assert len(made.model.functions) == 1
    feed = {**DECODER.feeds(), "flag": np.array(flag)}
    wanted = float_outputs(model, feed)
    assert worst(outputs(made.model, feed), wanted) < 5e-4
    assert worst(outputs(made.model, feed, library=False), wanted) < 1e-9
    again = api.optimize(made.model, rotate="none").model
    assert again.SerializeToString(deterministic=True) == made.model.SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize("flag", [True, False])
def test_rotation_of_any_channels_beside_float(flag: bool) -> None:
    """The body holds no matrix, so that blocks of other channels may be rotated too."""
    model = branches(Decoder(layers=1, heads=8, channels=8))
    made = api.optimize(model, rotate="hadamard")
    assert statuses(made) == ["fused"] * 3
    nodes = [entry.node for entry in fused_nodes(made.model)]
    rotations = sorted(attribute(node, "rotate") for node in nodes)
    assert rotations == [b"hadamard", b"hadamard", b"none"]
    feed = {**DECODER.feeds(), "flag": np.array(flag)}
    wanted = float_outputs(model, feed)
    assert worst(outputs(made.model, feed), wanted) < 5e-4
    assert worst(outputs(made.model, feed, library=False), wanted) < 1e-9


@pytest.mark.parametrize(("first", "then"), [("int8", "float"), ("float", "int8")])
def test_a_model_that_is_partly_fused_takes_the_other_format(first: str, then: str) -> None:
    model, feed = DECODER.model(), DECODER.feeds()
    partly = api.optimize(model, format=first, rotate="auto", exclude="[12]$")
    assert sorted(statuses(partly)) == ["exempt", "exempt", "fused"]
    made = api.optimize(partly.model, format=then)
    assert_valid(made.model)
    assert fused_count(made.model) == 3
    assert formats(made.model) == {
        "attention_0": first,
        "attention_1": then,
        "attention_2": then,
    }
    wanted = float_outputs(model, feed)
    assert worst(outputs(made.model, feed), wanted) < 5e-4
    assert worst(outputs(made.model, feed, library=False), wanted) < 1e-9


def sharing(place: str) -> ModelProto:
    """Two blocks that read the same keys and values, from the value ``place`` on."""
    model = Decoder().model()
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            for letter in "kv":
                if name == place.format(letter, 1):
                    node.input[position] = place.format(letter, 0)
    return model


@pytest.mark.parametrize("place", ["{}{}_flat", "{}{}_split", "{}{}", "{}r{}"])
@pytest.mark.parametrize("hard", [0, 1])
def test_blocks_that_share_keys_and_values(place: str, hard: int) -> None:
    """What is quantized for one block does not reach the other."""
    model, feed = sharing(place), Decoder().feeds()
    plan = Plan(
        sites=tuple(
            SitePlan(f"attention_{index}", FLOAT if index == hard else INT8) for index in (0, 1)
        )
    )
    made = api.optimize(model, plan=plan)
    assert_valid(made.model)
    assert statuses(made) == ["fused", "fused"]
    assert planned(made.plan)[hard] is FLOAT
    assert "QuantizeLinear" not in operators(made.model)
    wanted = float_outputs(model, feed)
    assert worst(outputs(made.model, feed), wanted) < 5e-4
    assert worst(outputs(made.model, feed, library=False), wanted) < 1e-9


def test_report_and_inspection_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(hard_model(), tmp_path / "model.onnx")
    source, target = str(tmp_path / "model.onnx"), str(tmp_path / "out.onnx")
    assert main(["optimize", source, "-o", target, "--rotate", "none"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Attention sites: 3 found, 3 fused (2 int8, 1 float)" in text
    assert "in float: int8 NMSE" in text
    assert main(["inspect", target]) == 0
    assert "0 refused, 3 fused already (1 in float)" in capsys.readouterr().out
    assert main(["optimize", source, "--dry-run", "--rotate", "none", "--json"]) == 0
    assert '"fused_int8": 2,\n    "fused_float": 1\n' in capsys.readouterr().out
