"""The fate of each candidate, from plan and measurements."""

from dataclasses import dataclass, replace

import pytest

from qfa_passes.core.formats import AttentionFormat
from qfa_passes.core.outcome import Proof, SiteStatus, Standing
from qfa_passes.core.plan import Plan, SitePlan
from qfa_passes.core.site import Mask, MaskKind, MaskTerm, Refusal
from qfa_passes.report.outcomes import site_outcomes
from qfa_passes.verify.sites import SiteError
from tests.reference.golden_graphs import GROUPED_SITE

BOUND = 5e-4
QUANTIZED = Plan(sites=(SitePlan("attention"),))
NONE = Plan(sites=(SitePlan("attention", AttentionFormat.NONE),))
NOTE = "int8 NMSE 2.00e-03 is above the bound 5.00e-04"
FLOAT = Plan(sites=(SitePlan("attention", AttentionFormat.FLOAT),))
RELIEVED = Plan(sites=(SitePlan("attention", AttentionFormat.FLOAT, note=NOTE),))
GIVEN_UP = Plan(sites=(SitePlan("attention", AttentionFormat.NONE, note=NOTE),))
EXEMPT = Plan(sites=(SitePlan("attention", AttentionFormat.NONE, exempt="excluded by name"),))
GOOD, BAD = SiteError(1e-4, 0.1, 100), SiteError(2e-3, 0.1, 100)


@pytest.mark.parametrize(
    ("plan", "error", "stopped", "status", "reason"),
    [
        (QUANTIZED, GOOD, "", SiteStatus.FUSED, ""),
        (QUANTIZED, None, "", SiteStatus.FUSED, ""),
        (QUANTIZED, SiteError(BOUND, 0.1, 1), "", SiteStatus.FUSED, ""),
        (QUANTIZED, GOOD, "rewrite", SiteStatus.EXEMPT, "not fused: stopped after rewrite"),
        (NONE, BAD, "", SiteStatus.RESTORED, "NMSE 2.00e-03 is above the bound 5.00e-04"),
        (NONE, BAD, "rewrite", SiteStatus.RESTORED, "NMSE 2.00e-03 is above the bound 5.00e-04"),
        (NONE, SiteError(float("nan"), 0, 9), "", SiteStatus.RESTORED, "NMSE nan is above"),
        (NONE, SiteError(0.0, 0.0, 0), "", SiteStatus.RESTORED, "no finite row"),
        (NONE, SiteError(0.0, 0.0, 0, problem="no memory"), "", SiteStatus.RESTORED, "no memory"),
        (FLOAT, GOOD, "", SiteStatus.FUSED, ""),
        (RELIEVED, GOOD, "", SiteStatus.FUSED, f"in float: {NOTE}"),
        (RELIEVED, GOOD, "rewrite", SiteStatus.EXEMPT, "stopped after rewrite"),
        (
            GIVEN_UP,
            SiteError(1e-6, 0.1, 9, limit=1e-9),
            "",
            SiteStatus.RESTORED,
            f"{NOTE}, and in float NMSE 1.00e-06 is above the bound 1.00e-09",
        ),
        (NONE, None, "", SiteStatus.EXEMPT, "left in float by the plan"),
        (Plan(), None, "", SiteStatus.EXEMPT, "left in float by the plan"),
        (EXEMPT, None, "", SiteStatus.EXEMPT, "excluded by name"),
        (EXEMPT, BAD, "rewrite", SiteStatus.EXEMPT, "excluded by name"),
    ],
)
def test_fate(
    plan: Plan, error: SiteError | None, stopped: str, status: SiteStatus, reason: str
) -> None:
    errors = {} if error is None else {"attention": error}
    (outcome,) = site_outcomes([GROUPED_SITE], plan, errors, bound=BOUND, stopped=stopped)
    assert outcome.status is status
    assert outcome.reason.startswith(reason) or reason in outcome.reason
    assert bool(outcome.reason) == bool(reason)
    assert (outcome.nmse is None) == (error is None) == (outcome.bound is None)
    fused = status is SiteStatus.FUSED
    assert outcome.format is (plan.sites[0].format if fused else None)


@pytest.mark.parametrize("standing", Standing)
def test_a_disproven_site_is_restored(standing: Standing) -> None:
    proof = Proof(standing, reason="in float it differs", nmse=0.5)
    (outcome,) = site_outcomes(
        [GROUPED_SITE], QUANTIZED, {"attention": GOOD}, bound=BOUND, proofs={"attention": proof}
    )
    assert outcome.proof is proof
    if standing is Standing.DISPROVEN:
        assert (outcome.status, outcome.reason) == (SiteStatus.RESTORED, "in float it differs")
    else:
        assert (outcome.status, outcome.reason) == (SiteStatus.FUSED, "")


def test_refusals_keep_their_place_and_hint() -> None:
    found = [Refusal("softmax_0", "not understood", "export again"), GROUPED_SITE]
    outcomes = site_outcomes(found, QUANTIZED, {}, bound=BOUND)
    assert [outcome.name for outcome in outcomes] == ["softmax_0", "attention"]
    assert outcomes[0].status is SiteStatus.REFUSED
    assert outcomes[0].reason == "not understood (export again)"


@dataclass(frozen=True)
class Words:
    """Heads and channels, and how they are told."""

    heads: tuple[int, int]
    channels: tuple[int, int]
    mask: Mask
    text: str


@pytest.mark.parametrize(
    "words",
    [
        Words((9, 3), (64, 64), Mask(causal=True), "GQA 9:3, D 64, causal"),
        Words((8, 1), (64, 32), Mask(), "MQA 8:1, D 64/32, none"),
        Words((12, 12), (32, 32), GROUPED_SITE.mask, "MHA 12, D 32, mask"),
        Words(
            (1, 1), (8, 8), Mask(True, (MaskTerm("b", MaskKind.BIAS),)), "MHA 1, D 8, causal + bias"
        ),
    ],
    ids=lambda words: words.text,
)
def test_description(words: Words) -> None:
    site = replace(
        GROUPED_SITE,
        num_heads=words.heads[0],
        kv_num_heads=words.heads[1],
        qk_channels=words.channels[0],
        v_channels=words.channels[1],
        mask=words.mask,
    )
    assert site.describe() == words.text
