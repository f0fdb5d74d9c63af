"""A plan from a file is checked against the model's sites and completed."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qfa_passes.core.formats import AttentionFormat, Rotation, ScaleMode
from qfa_passes.core.plan import Plan, SitePlan, StaticScales
from qfa_passes.errors import ConfigError
from qfa_passes.plan.fit import fit_plan
from tests.reference.golden_graphs import GROUPED_SITE

FIRST, SECOND = (replace(GROUPED_SITE, name=name) for name in ("first", "second"))
SITES = [FIRST, SECOND]


def test_entries_come_in_graph_order_and_others_go() -> None:
    plan = Plan(sites=(SitePlan("second"), SitePlan("elsewhere"), SitePlan("first")))
    assert [entry.name for entry in fit_plan(plan, SITES).sites] == ["first", "second"]


def test_missing_entries_follow_the_ones_that_are_quantized() -> None:
    none = SitePlan("second", AttentionFormat.NONE, exempt="for a test")
    rotated = SitePlan("second", rotation=Rotation.HADAMARD)
    assert fit_plan(Plan(), SITES).sites == (SitePlan("first"), SitePlan("second"))
    assert fit_plan(Plan(sites=(none,)), SITES).sites == (SitePlan("first"), none)
    assert fit_plan(Plan(sites=(rotated,)), SITES).sites[0].rotation is Rotation.HADAMARD


@pytest.mark.parametrize("query", [1, 4])
@pytest.mark.parametrize("key", [1, 2])
def test_one_step_or_one_per_head(query: int, key: int) -> None:
    scales = StaticScales((0.1,) * query, (0.1,) * key, (0.1,))
    plan = Plan(sites=(SitePlan("first", scales=scales),))
    assert fit_plan(plan, [FIRST]).sites[0].scales == scales


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        (StaticScales((0.1,) * 2, (0.1,), (0.1,)), "2 query scales to site 'first': it has 4"),
        (StaticScales((0.1,), (0.1,) * 4, (0.1,)), "4 key scales to site 'first': it has 2"),
        (StaticScales((0.1,), (0.1,), (0.1,) * 8), "8 value scales to site 'first': it has 2"),
    ],
)
def test_another_number_of_steps_is_refused(scales: StaticScales, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fit_plan(Plan(sites=(SitePlan("first", scales=scales),)), SITES)


def test_shift_must_fit_heads_and_channels() -> None:
    def plan(*shape: int) -> Plan:
        return Plan(
            sites=(SitePlan("first", k_mean="shift"),),
            tensors={"shift": np.zeros(shape, np.float32)},
        )

    assert fit_plan(plan(2, 16), SITES).sites[0].k_mean == "shift"
    for shape in ((4, 16), (2, 8), (1, 1), (32,)):
        with pytest.raises(ConfigError, match="its keys have 2 heads of 16 channels"):
            fit_plan(plan(*shape), SITES)


@pytest.mark.parametrize("more", [{"softcap": 3.0}, {"sink": "sinks"}], ids=["softcap", "sink"])
def test_keys_are_not_shifted_where_the_softmax_would_see_it(more: dict[str, Any]) -> None:
    plan = Plan(
        sites=(SitePlan("first", k_mean="shift"),),
        tensors={"shift": np.zeros((2, 16), np.float32)},
    )
    with pytest.raises(ConfigError, match="softcap or a sink"):
        fit_plan(plan, [replace(FIRST, **more)])


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        (SitePlan("first", AttentionFormat.FLOAT, rotation=Rotation.HADAMARD), "rotate"),
        (
            SitePlan(
                "first",
                AttentionFormat.FLOAT,
                ScaleMode.STATIC,
                scales=StaticScales((1,), (1,), (1,)),
            ),
            "scale_mode, scales",
        ),
    ],
)
def test_float_says_nothing_of_quantization(entry: SitePlan, named: str) -> None:
    with pytest.raises(ConfigError, match=f"format float and {named} to site 'first'"):
        fit_plan(Plan(sites=(entry,)), SITES)


def test_sites_without_an_entry_follow_those_in_float() -> None:
    fitted = fit_plan(Plan(sites=(SitePlan("first", AttentionFormat.FLOAT),)), SITES)
    assert {entry.format for entry in fitted.sites} == {AttentionFormat.FLOAT}


def test_sites_without_an_entry_follow_int8_before_float() -> None:
    plain = SitePlan("first", AttentionFormat.FLOAT, note="for a test")
    rotated = SitePlan("third", rotation=Rotation.HADAMARD)
    fitted = fit_plan(Plan(sites=(plain, rotated)), SITES)
    assert fitted.sites == (plain, replace(rotated, name="second"))


def test_a_note_goes_with_the_format_that_it_explains() -> None:
    entry = SitePlan("first", AttentionFormat.INT8, note="why it was in float")
    assert fit_plan(Plan(sites=(entry,)), [FIRST]).sites == (SitePlan("first"),)
