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
        planned = plan.site(entry.name) if status is SiteStatus.FUSED else None
        outcomes.append(
            SiteOutcome(
                name=entry.name,
                status=status,
                reason=reason,
                nmse=None if error is None else error.nmse,
                bound=None if error is None else error.allowed(bound),
                description=entry.describe(),
                proof=proof,
                format=None if planned is None else planned.format,
            )
        )
    return outcomes


def _fate(
    name: str, plan: Plan, error: Measured | None, bound: float, stopped: str
) -> tuple[SiteStatus, str]:
    entry = plan.site(name)
    if entry is not None and entry.exempt:
        return SiteStatus.EXEMPT, entry.exempt
    problem = "" if error is None else _problem(error, bound)
    if problem:
        tried = f"{entry.note}, and in float " if entry is not None and entry.note else ""
        return SiteStatus.RESTORED, tried + problem
    if entry is None or not entry.quantized:
        return SiteStatus.EXEMPT, "left in float by the plan"
    if stopped:
        marked = stopped == "rewrite" and entry.format is not AttentionFormat.FLOAT
        form = "quantized, not fused: " if marked else ""
        return SiteStatus.EXEMPT, f"{form}stopped after {stopped}"
    relieved = entry.format is AttentionFormat.FLOAT and entry.note
    return SiteStatus.FUSED, f"in float: {entry.note}" if relieved else ""


def _problem(error: Measured, bound: float) -> str:
    """Why a site cannot be fused; empty if it can."""
    if error.problem:
        return f"the operator does not run on it: {error.problem}"
    if not error.compared:
        return "its float output has no finite row to compare with"
    if not error.within(bound):
        return f"NMSE {error.nmse:.2e} is above the bound {error.allowed(bound):.2e}"
    return ""
