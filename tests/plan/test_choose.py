"""Which treatments of Q and K are tried, what plans they make, and which one wins."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from qfa_passes.core.formats import AttentionFormat, Rotation, ScaleMode
from qfa_passes.core.plan import Plan, SitePlan, StaticScales
from qfa_passes.core.site import AttentionSite
from qfa_passes.plan.choose import Candidate, candidates, choose, draft_plan, in_float
from tests.reference.golden_graphs import GROUPED_SITE

NONE, HADAMARD = Rotation.NONE, Rotation.HADAMARD
STEPS = StaticScales((0.5,), (0.25,), (0.125,))


@dataclass(frozen=True)
class Known:
    """Statistics that are given."""

    steps: StaticScales = STEPS
    mean: npt.NDArray[np.float32] | None = None

    def scales(self) -> StaticScales:
        return self.steps

    def k_mean(self) -> npt.NDArray[np.float32] | None:
        return self.mean


@dataclass(frozen=True)
class Error:
    """A measured site."""

    nmse: float


def sites(*channels: int) -> list[AttentionSite]:
    return [
        replace(GROUPED_SITE, name=f"site_{index}", qk_channels=count)
        for index, count in enumerate(channels)
    ]


@pytest.mark.parametrize(
    ("rotation", "channels", "shift", "wanted"),
    [
        (None, (64, 64), False, [(NONE, False), (HADAMARD, False)]),
        (None, (64,), True, [(NONE, False), (NONE, True), (HADAMARD, False), (HADAMARD, True)]),
        (None, (24,), False, [(NONE, False), (HADAMARD, False)]),
        (None, (12,), False, [(NONE, False)]),
        (None, (64, 32), False, [(NONE, False)]),
        (None, (), False, [(NONE, False)]),
        (NONE, (64,), True, [(NONE, False), (NONE, True)]),
        (HADAMARD, (64,), False, [(HADAMARD, False)]),
    ],
)
def test_candidates(
    rotation: Rotation | None,
    channels: tuple[int, ...],
    shift: bool,
    wanted: list[tuple[Rotation, bool]],
) -> None:
    found = candidates(rotation, sites(*channels), shift_keys=shift)
    assert found == [Candidate(*pair) for pair in wanted]


def test_nothing_is_treated_where_nothing_is_quantized() -> None:
    asked = candidates(
        HADAMARD,
        sites(64),
        shift_keys=True,
        scale_mode=ScaleMode.STATIC,
        attention=AttentionFormat.FLOAT,
    )
    assert asked == [Candidate(NONE, shift_keys=False)]
    known = {"site_0": Known(mean=np.ones((2, 64), np.float32))}
    plan = draft_plan(
        "d", sites(64), known, Candidate(HADAMARD, True), AttentionFormat.FLOAT, ScaleMode.STATIC
    )
    assert plan == Plan("d", (SitePlan("site_0", format=AttentionFormat.FLOAT),))


@pytest.mark.parametrize("more", [{"softcap": 3.0}, {"sink": "sinks"}], ids=["softcap", "sink"])
def test_keys_are_not_shifted_where_the_softmax_would_see_it(more: dict[str, Any]) -> None:
    plain = sites(64, 64)
    given = [plain[0], replace(plain[1], **more)]
    mean = np.ones((2, 64), np.float32)
    known = {site.name: Known(mean=mean) for site in given}
    plan = draft_plan(
        "", given, known, Candidate(NONE, True), AttentionFormat.INT8, ScaleMode.DYNAMIC
    )
    assert [entry.k_mean for entry in plan.sites] == ["site_0/k_mean", None]


def test_static_steps_fit_the_plain_treatment_only() -> None:
    found = candidates(None, sites(64), shift_keys=True, scale_mode=ScaleMode.STATIC)
    assert found == [Candidate(NONE, False)]


def draft(candidate: Candidate, mode: ScaleMode = ScaleMode.DYNAMIC, **known: Known) -> Plan:
    return draft_plan("digest", sites(16, 16), known, candidate, AttentionFormat.INT8, mode)


def test_plan_treats_every_site_alike() -> None:
    plan = draft(Candidate(HADAMARD, False), site_0=Known(), site_1=Known())
    assert plan.model_digest == "digest"
    assert [(s.name, s.rotation, s.scales, s.k_mean) for s in plan.sites] == [
        ("site_0", HADAMARD, None, None),
        ("site_1", HADAMARD, None, None),
    ]


def test_plan_holds_the_shift_of_each_site() -> None:
    first, second = np.ones((2, 16), np.float32), np.zeros((2, 16), np.float32)
    plan = draft(Candidate(NONE, True), site_0=Known(mean=first), site_1=Known(mean=second))
    assert [plan.k_mean(site)[0, 0] for site in plan.sites] == [1, 0]
    plan = draft(Candidate(NONE, False), site_0=Known(mean=first), site_1=Known(mean=second))
    assert plan.tensors == {}


def test_plan_holds_static_steps() -> None:
    plan = draft(Candidate(NONE, False), ScaleMode.STATIC, site_0=Known(), site_1=Known())
    assert {site.scales for site in plan.sites} == {STEPS}


def test_steps_of_the_models_own_pairs_win() -> None:
    site = replace(GROUPED_SITE, key=replace(GROUPED_SITE.key, scale=(0.75,)))
    plan = draft_plan(
        "",
        [site],
        {site.name: Known()},
        Candidate(NONE, False),
        AttentionFormat.INT8,
        ScaleMode.STATIC,
    )
    assert plan.sites[0].scales == StaticScales((0.5,), (0.75,), (0.125,))


def winner(*errors: list[float], bound: float = np.inf) -> int:
    measured = [
        (
            Candidate(NONE, False),
            Plan(model_digest=str(index)),
            {f"site_{place}": Error(nmse) for place, nmse in enumerate(nmses)},
        )
        for index, nmses in enumerate(errors)
    ]
    plan, found = choose(measured, bound)
    assert [error.nmse for error in found.values()] == pytest.approx(
        errors[int(plan.model_digest)], nan_ok=True
    )
    return int(plan.model_digest)


@pytest.mark.parametrize(
    ("errors", "wanted"),
    [
        ([[1e-4]], 0),
        ([[1e-4], [0.5e-4]], 1),
        ([[1e-4], [0.95e-4]], 0),  # not worth the cost
        ([[1e-4], [1e-4], [1e-4]], 0),
        ([[1e-4], [0.8e-4], [0.5e-4]], 2),
        ([[1e-4], [0.5e-4], [0.48e-4]], 1),
        ([[1e-4, 3e-4], [2e-4, 1e-4]], 1),  # the mean decides
        ([[], []], 0),
        ([[float("inf")], [1e-4]], 1),
        ([[float("nan")], [1e-4]], 1),
        ([[1e-4], [float("nan")]], 0),
        ([[float("inf"), 8e-4], [float("inf"), 1e-4]], 0),
        ([[5.0, 0.4], [7.0, 0.1]], 1),  # a lost site does not hide the other
    ],
)
def test_smallest_mean_error_wins(errors: list[list[float]], wanted: int) -> None:
    assert winner(*errors) == wanted


@pytest.mark.parametrize(
    ("errors", "wanted"),
    [
        ([[6e-4, 6e-4], [1e-4, 0.5]], 1),  # one that fits is more than a better mean
        ([[1e-4, 0.5], [6e-4, 6e-4]], 0),
        ([[0.5, 4e-4], [0.5, 1e-4]], 0),  # as many fit, and the mean is no better
        ([[3e-4, 3e-4], [1e-4, 1e-4]], 1),
        ([[float("nan")], [1e-4]], 1),
    ],
)
def test_most_sites_within_the_bound_win(errors: list[list[float]], wanted: int) -> None:
    assert winner(*errors, bound=5e-4) == wanted


def test_sites_in_float_have_no_treatment() -> None:
    mean = np.ones((2, 16), np.float32)
    plan = draft(Candidate(HADAMARD, True), site_0=Known(mean=mean), site_1=Known(mean=mean))
    first, second = in_float(plan, {"site_0": "too sharp"}).sites
    assert first == SitePlan("site_0", AttentionFormat.FLOAT, note="too sharp")
    assert second == plan.sites[1]
    assert list(in_float(plan, {"site_0": ""}).tensors) == ["site_1/k_mean"]
    assert in_float(plan, {}) == plan
