"""What became of each attention candidate, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol

from qfa_passes.core.formats import AttentionFormat
from qfa_passes.core.outcome import Proof, SiteOutcome, SiteStatus, Standing
from qfa_passes.core.plan import Plan
from qfa_passes.core.site import AttentionSite, Refusal

NO_PROOFS: Final[Mapping[str, Proof]] = MappingProxyType({})


class Measured(Protocol):
    """The error of a site."""

    @property
    def nmse(self) -> float:
        """Normalized mean squared error."""
        ...

    @property
    def compared(self) -> int:
        """Number of compared elements."""
        ...

    @property
    def problem(self) -> str:
        """Why the operator did not run; empty if it did."""
        ...

    def within(self, bound: float) -> bool:
        """True if the site may stay fused."""
        ...

    def allowed(self, bound: float) -> float:
        """What its error was held against."""
        ...


def site_outcomes(
    found: Sequence[AttentionSite | Refusal],
    plan: Plan,
    errors: Mapping[str, Measured],
    *,
    bound: float,
    stopped: str = "",
    proofs: Mapping[str, Proof] = NO_PROOFS,
) -> list[SiteOutcome]:
    """Returns one outcome per candidate, in graph order.

    Args:
        found: What the matcher found.
        plan: What was done.
        errors: What was measured, by site name.
        bound: Largest error of a site.
        stopped: The stage that the run ended with, if it did so before fusing.
        proofs: Of the structure of sites, by name.
    """
    outcomes = []
    for entry in found:
        if isinstance(entry, Refusal):
            reason = entry.reason + (f" ({entry.hint})" if entry.hint else "")
            outcomes.append(SiteOutcome(entry.where, SiteStatus.REFUSED, reason))
            continue
        error, proof = errors.get(entry.name), proofs.get(entry.name)
        if proof is not None and proof.standing is Standing.DISPROVEN:
            status, reason = SiteStatus.RESTORED, proof.reason
        else:
            status, reason = _fate(entry.name, plan, error, bound, stopped)
        outcomes.append(
            SiteOutcome(
                name=entry.name,
                status=status,
                reason=reason,
                nmse=None if error is None else error.nmse,
                bound=None if error is None else error.allowed(bound),
                description=entry.describe(),
                proof=proof,
            )
        )
    return outcomes


def _fate(
    name: str, plan: Plan, error: Measured | None, bound: float, stopped: str
) -> tuple[SiteStatus, str]:
    entry = plan.site(name)
    if entry is not None and entry.exempt:
        return SiteStatus.EXEMPT, entry.exempt
    if error is not None and error.problem:
        return SiteStatus.RESTORED, f"the operator does not run on it: {error.problem}"
    if error is not None and not error.compared:
        return SiteStatus.RESTORED, "its float output has no finite row to compare with"
    if error is not None and not error.within(bound):
        return (
            SiteStatus.RESTORED,
            f"NMSE {error.nmse:.2e} is above the bound {error.allowed(bound):.2e}",
        )
    if entry is None or not entry.quantized:
        return SiteStatus.EXEMPT, "left in float by the plan"
    if stopped:
        marked = stopped == "rewrite" and entry.format is not AttentionFormat.FLOAT
        form = "quantized, not fused: " if marked else ""
        return SiteStatus.EXEMPT, f"{form}stopped after {stopped}"
    return SiteStatus.FUSED, ""
