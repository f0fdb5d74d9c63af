"""The joint guard on accuracy.

Perplexity alone can improve by luck while the distribution breaks, so perplexity and divergence
must both hold.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qfa_passes.core.comparison import GuardVerdict, LanguageComparison, TensorError, Verdict
from qfa_passes.core.outcome import SiteOutcome
from qfa_passes.errors import VerificationError


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """Below the first number of a pair passes, below the second warns, beyond fails.

    Attributes:
        perplexity: Relative change in either direction.
        kld: Mean Kullback-Leibler divergence in nats.
        nmse: Error of outputs of models that are no language models (cosine 0.9995 and 0.995).
    """

    perplexity: tuple[float, float] = (0.01, 0.02)
    kld: tuple[float, float] = (5e-3, 1e-2)
    nmse: tuple[float, float] = (1e-3, 1e-2)


DEFAULT_LIMITS = GuardLimits()


def judge(
    language: LanguageComparison | None,
    outputs: Mapping[str, TensorError],
    limits: GuardLimits = DEFAULT_LIMITS,
) -> GuardVerdict:
    """Judges a language model by its predictions, any other model by the error of its outputs.

    Args:
        language: Measures of the predictions; None if the model is no language model.
        outputs: Error by output name; used only without ``language``.
        limits: Where warning and failure begin.
    """
    graded: list[tuple[Verdict, str]] = []
    notes: list[str] = []
    if language is not None:
        change = language.change
        graded.append(
            (
                _grade(abs(change), limits.perplexity),
                f"perplexity {language.perplexity_a:#.4g} -> {language.perplexity_b:#.4g} "
                f"({change:+.2%}; passes below {limits.perplexity[0]:.0%}, "
                f"fails from {limits.perplexity[1]:.0%})",
            )
        )
        graded.append(
            (
                _grade(language.kld_mean, limits.kld),
                f"KL divergence {language.kld_mean:.2e} "
                f"(passes below {limits.kld[0]:.0e}, fails from {limits.kld[1]:.0e})",
            )
        )
        half_width = (language.change_high - language.change_low) / 2
        if not half_width < limits.perplexity[0]:
            notes.append(
                f"{language.tokens} tokens are few: the perplexity change is known to "
                f"{half_width:.1%} only (95 % confidence); give more text for a sharper answer"
            )
    else:
        for name, error in outputs.items():
            graded.append(
                (
                    _grade(error.nmse, limits.nmse),
                    f"output {name!r}: NMSE {error.nmse:.2e} "
                    f"(passes below {limits.nmse[0]:.0e}, fails from {limits.nmse[1]:.0e})",
                )
            )
    grades = [grade for grade, _ in graded]
    worst = next((v for v in (Verdict.FAIL, Verdict.WARN) if v in grades), Verdict.PASS)
    findings = tuple(line for grade, line in graded if grade is not Verdict.PASS)
    return GuardVerdict(worst, findings, tuple(notes))


def _grade(value: float, limits: tuple[float, float]) -> Verdict:
    if math.isnan(value) or value >= limits[1]:
        return Verdict.FAIL
    return Verdict.PASS if value < limits[0] else Verdict.WARN


def guard_failure(
    verdict: GuardVerdict, sites: Iterable[SiteOutcome] = ()
) -> VerificationError | None:
    """Returns the error that a failed verdict amounts to; None unless it failed.

    Args:
        verdict: What `judge` said.
        sites: Outcomes of the rewritten sites, to name those to recalibrate or exempt.
    """
    if verdict.verdict is not Verdict.FAIL:
        return None
    measured = sorted(
        (site for site in sites if site.nmse is not None), key=lambda site: -(site.nmse or 0.0)
    )
    if measured:
        worst = ", ".join(f"{site.name} (NMSE {site.nmse:.1e})" for site in measured[:3])
        hint = f"recalibrate or exempt the sites with the largest error: {worst}"
    else:
        hint = "exempt sites with --exclude, or optimize again with calibration data"
    return VerificationError(
        "the models differ by more than the guard allows",
        why="; ".join(verdict.findings),
        hint=hint,
    )
