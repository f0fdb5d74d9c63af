"""The joint guard: where it passes, warns and fails."""

import math

import pytest

from qfa_passes.core.comparison import GuardVerdict, LanguageComparison, TensorError, Verdict
from qfa_passes.core.outcome import SiteOutcome, SiteStatus
from qfa_passes.verify.guard import guard_failure, judge


def measured(change: float = 0.0, kld: float = 1e-4, spread: float = 1e-3) -> LanguageComparison:
    return LanguageComparison(
        tokens=8176,
        perplexity_a=39.0,
        perplexity_b=39.0 * (1 + change),
        change=change,
        change_low=change - spread,
        change_high=change + spread,
        kld_mean=kld,
        kld_p99=10 * kld,
        kld_max=20 * kld,
        top1=0.99,
    )


@pytest.mark.parametrize(
    ("change", "kld", "verdict"),
    [
        (0.0, 0.0, Verdict.PASS),
        (0.0099, 4.9e-3, Verdict.PASS),
        (0.011, 1e-4, Verdict.WARN),
        (-0.015, 1e-4, Verdict.WARN),
        (0.0, 6e-3, Verdict.WARN),
        (0.02, 1e-4, Verdict.FAIL),
        (-0.03, 1e-4, Verdict.FAIL),
        (0.0, 1.1e-2, Verdict.FAIL),
        (math.nan, 1e-4, Verdict.FAIL),
        (0.0, math.nan, Verdict.FAIL),
        (math.inf, 1e-4, Verdict.FAIL),
    ],
)
def test_limits_of_language_models(change: float, kld: float, verdict: Verdict) -> None:
    assert judge(measured(change, kld), {}).verdict is verdict


def test_better_perplexity_does_not_excuse_a_broken_distribution() -> None:
    found = judge(measured(change=-0.001, kld=0.05), {})
    assert found.verdict is Verdict.FAIL
    assert len(found.findings) == 1
    assert "KL divergence 5.00e-02" in found.findings[0]


def test_too_little_text_is_noted() -> None:
    assert not judge(measured(), {}).notes
    assert "8176 tokens are few" in judge(measured(spread=0.03), {}).notes[0]


@pytest.mark.parametrize(
    ("nmse", "verdict"),
    [(9e-4, Verdict.PASS), (5e-3, Verdict.WARN), (0.1, Verdict.FAIL), (math.inf, Verdict.FAIL)],
)
def test_other_models_are_judged_by_their_outputs(nmse: float, verdict: Verdict) -> None:
    good = TensorError(1e-6, 1.0, 0.1, 10)
    found = judge(None, {"good": good, "other": TensorError(nmse, 0.9, 1.0, 10)})
    assert found.verdict is verdict
    assert all("'other'" in line for line in found.findings)


def test_outputs_of_language_models_are_not_judged_twice() -> None:
    assert judge(measured(), {"logits": TensorError(1.0, 0.0, 1.0, 1)}).verdict is Verdict.PASS


def test_failure_names_the_worst_sites() -> None:
    sites = [
        SiteOutcome(f"layer{n}", SiteStatus.FUSED, nmse=n * 1e-5, bound=5e-4) for n in range(9)
    ]
    error = guard_failure(judge(measured(change=0.05), {}), sites)
    assert error is not None
    assert error.exit_code == 4
    assert "+5.00%" in error.why
    assert "layer8 (NMSE 8.0e-05), layer7" in error.hint
    assert "layer3" not in error.hint


def test_failure_without_sites_says_what_to_do() -> None:
    error = guard_failure(GuardVerdict(Verdict.FAIL, ("too far",)))
    assert error is not None
    assert "--exclude" in error.hint


@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.WARN])
def test_no_failure(verdict: Verdict) -> None:
    assert guard_failure(GuardVerdict(verdict)) is None
