"""What stays exactly as the source has it: calls and operators that were written out, and then nothing was fused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from qfa_passes.core.outcome import Proof, SiteOutcome
from qfa_passes.core.plan import Plan, SitePlan
from qfa_passes.core.site import AttentionSite
from qfa_passes.opened import Found, Scope, found_in, idle_origins, name_of
from qfa_passes.planning import Errors, exempted
from qfa_passes.report.outcomes import NO_PROOFS, site_outcomes


@dataclass(slots=True)
class LeftAlone:
    """Grows from one round over the stages to the next.

    Attributes:
        origins: Names of function calls and operators, with the prefix of their scope.
        outcomes: What was found in them, by name.
        entries: Their plan.
        order: Place of every name that was ever found; in the first round all are.
        sites: Those of the names that are sites.
        needed: Origins that must not be left alone: blocks around them are not understood without them.
    """

    origins: set[str] = field(default_factory=set)
    outcomes: dict[str, SiteOutcome] = field(default_factory=dict)
    entries: dict[str, SitePlan] = field(default_factory=dict)
    order: dict[str, int] = field(default_factory=dict)
    sites: set[str] = field(default_factory=set)
    needed: set[str] = field(default_factory=set)
    _added: set[str] = field(default_factory=set)
    _told: set[str] = field(default_factory=set)
    _hopeful: frozenset[str] = frozenset()

    def see(self, found: Sequence[Found]) -> None:
        """Remembers names and order of what was found."""
        for entry in found:
            self.order.setdefault(name_of(entry), len(self.order))
            if isinstance(entry, AttentionSite):
                self.sites.add(entry.name)

    def idle(self, scopes: Sequence[Scope], used: Sequence[str]) -> set[str]:
        """Origins that can be left alone too, when the sites ``used`` are those that matter."""
        self._hopeful = frozenset(used)
        return idle_origins(scopes, used, self.origins | self.needed)

    def take_back(self, scopes: Sequence[Scope]) -> bool:
        """Takes the last origins back if a site that mattered is not found without them; tells whether it did."""
        found = {site.name for scope in scopes for site in scope.sites}
        if not self._added or self._hopeful <= found:
            return False
        self.needed |= self._added
        self.origins -= self._added
        for name in self._told:
            self.outcomes.pop(name)
            self.entries.pop(name, None)
        self._added, self._told = set(), set()
        return True

    def add(
        self,
        origins: set[str],
        scopes: Sequence[Scope],
        plan: Plan,
        errors: Errors,
        bound: float,
        proofs: Mapping[str, Proof] = NO_PROOFS,
    ) -> None:
        """Leaves some origins alone from now on; what was found in them is reported as it is now."""
        self.origins |= origins
        found = [
            entry for entry in found_in(scopes, origins) if name_of(entry) not in self.outcomes
        ]
        self._added, self._told = set(origins), {name_of(entry) for entry in found}
        for outcome in site_outcomes(found, plan, errors, bound=bound, proofs=proofs):
            self.outcomes[outcome.name] = outcome
        for name in self._told:
            planned = plan.site(name)
            if planned is not None:
                self.entries[name] = planned

    def complete(self, outcomes: Sequence[SiteOutcome]) -> list[SiteOutcome]:
        """The outcomes of the last round with those that were left alone, in the order of the first."""
        return sorted(
            [*outcomes, *self.outcomes.values()],
            key=lambda outcome: self.order.get(outcome.name, len(self.order)),
        )

    def completed(self, plan: Plan) -> Plan:
        """The plan of the last round with the entries of what was left alone."""
        present = {entry.name for entry in plan.sites}
        left = tuple(entry for name, entry in self.entries.items() if name not in present)
        return replace(plan, sites=plan.sites + left)

    def by_choice(
        self, origins: set[str], scopes: Sequence[Scope], reasons: Mapping[str, str]
    ) -> None:
        """Leaves origins alone of which no site may be quantized, before anything is run."""
        self.add(origins, scopes, exempted(Plan(), reasons), {}, 0.0)
