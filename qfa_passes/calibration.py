"""Running every scope of a model: the main graph on the data, bodies on what reaches them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from qfa_passes.body_data import BodyData, body_data
from qfa_passes.config import Options, Progress
from qfa_passes.core.dataset import DataSet
from qfa_passes.core.outcome import Proof
from qfa_passes.core.site import AttentionSite
from qfa_passes.errors import InvalidDataError, QfaError, RuntimeFailureError
from qfa_passes.evidence import HELD_RUNS, Evidence
from qfa_passes.opened import Scope
from qfa_passes.verify.seeded import seeded_data

_SHORTER: Final = (24, 8, 2)
"""Lengths of made-up inputs for models that take no longer ones, as those with a small table of positions."""

Sites = Mapping[str, Sequence[AttentionSite]]


@dataclass(slots=True)
class Calibration:
    """What running the scopes showed.

    Attributes:
        evidence: By prefix, of every scope; without runs where there were none.
        unrun: Sites whose body could not be run, with the reason.
        notes: What the user should know.
    """

    evidence: dict[str, Evidence]
    unrun: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @staticmethod
    def unknown(
        scopes: Sequence[Scope], options: Options, progress: Progress, *, library: bool = False
    ) -> Calibration:
        """What is known before anything was run."""
        return Calibration(
            {
                scope.prefix: Evidence(scope.model, options, progress, library=library)
                for scope in scopes
            }
        )

    def prove(self, sites: Sites, *, steps: bool) -> dict[str, str]:
        """Proves the structure of all sites; returns those that cannot be fused, with the reason.

        Args:
            sites: By the prefix of their scope.
            steps: Whether steps must be calibrated, for which a body has to be run.
        """
        failed = dict(self.unrun)
        for prefix, entries in sites.items():
            evidence = self.evidence[prefix]
            evidence.prove(entries)
            if not steps:  # random inputs take the place of those that never came
                failed = {name: failed[name] for name in failed.keys() - evidence.proven}
            failed |= evidence.disproven
        return failed

    @property
    def proofs(self) -> dict[str, Proof]:
        """What is proven of the structure of sites."""
        return {
            name: entry.proof
            for evidence in self.evidence.values()
            for name, entry in evidence.proofs.items()
        }

    def forget_inner_values(self) -> None:
        """Frees everything but the outputs of the scopes; no site can be measured afterwards."""
        for evidence in self.evidence.values():
            evidence.forget_inner_values()

    def fail(self, problem: str, prefix: str, sites: Sites) -> None:
        """Records that the graph at a prefix, and with it the bodies inside it, could not be run."""
        for inner, entries in sites.items():
            if inner.startswith(prefix):
                what = "its body" if inner else "the model"
                reason = f"{what} could not be run: {problem}"
                self.unrun |= {site.name: reason for site in entries}


def calibrate(
    scopes: Sequence[Scope],
    sites: Sites,
    data: DataSet,
    options: Options,
    progress: Progress,
    *,
    library: bool,
) -> Calibration:
    """Runs the main graph and every body with sites.

    Args:
        scopes: All scopes, outer ones first.
        sites: Those to look at, by the prefix of their scope.
        data: Inputs of the main graph.
        options: Of the run.
        progress: Is told of the steps.
        library: Whether the operator library is there.
    """
    result = Calibration.unknown(scopes, options, progress, library=library)
    problem = _run_main(result.evidence[""], sites.get("", ()), data, options.seed)
    if problem:
        result.fail(problem, "", sites)
        result.notes.append(f"the model was not run, and its outputs are not compared: {problem}")
        return result
    reaching = {"": result.evidence[""].data}
    for scope in scopes:
        inner = [entry for entry in scopes if _is_inside(entry, scope) and _leads_to(entry, sites)]
        if not inner or scope.prefix not in reaching:
            continue
        for prefix, given in body_data(scope.model, reaching[scope.prefix], inner).items():
            evidence = result.evidence[prefix]
            problem = _gather(evidence, sites.get(prefix, ()), given, options.seed)
            if problem:
                result.fail(problem, prefix, sites)
                continue
            reaching[prefix] = evidence.data
            if given.problem or not given.entered:
                label = prefix.removesuffix("/")
                reason = given.problem or "no run enters it"
                result.notes.append(
                    f"sites in {label} are verified on {evidence.data.label}: {reason}"
                )
    return result


def _is_inside(entry: Scope, scope: Scope) -> bool:
    return entry.body is not None and entry.body.outer == scope.prefix


def _leads_to(scope: Scope, sites: Sites) -> bool:
    """True if a scope or one inside it has sites to look at."""
    return any(prefix.startswith(scope.prefix) and found for prefix, found in sites.items())


def _run_main(evidence: Evidence, sites: Sequence[AttentionSite], data: DataSet, seed: int) -> str:
    """Runs the main graph; made-up inputs that are too long for it are made shorter.

    Returns:
        Why it does not run on made-up inputs; empty if it did.
    """
    if not data.seeded:
        evidence.gather(sites, data)
        return ""
    if not data.feeds:
        return data.label
    problem = ""
    for length in (None, *_SHORTER):
        if length is not None:
            proto = evidence.model.proto
            data = seeded_data(proto, seed=seed, samples=HELD_RUNS, sequence=length)
        # The first sample hides nothing; a model may give no numbers where the others hide much.
        for count in range(len(data.feeds), 0, -1):
            try:
                evidence.gather(sites, replace(data, feeds=data.feeds[:count]))
                return ""
            except (RuntimeFailureError, InvalidDataError) as error:
                problem = problem or error.why or error.what
    evidence.forget()
    return problem


def _gather(evidence: Evidence, sites: Sequence[AttentionSite], given: BodyData, seed: int) -> str:
    """Runs a body on what reaches it; if nothing does, on what would, or else on random inputs.

    Returns:
        Why it cannot be run; empty if it was.
    """
    problem = given.problem
    if not problem:
        try:
            evidence.gather(sites, given.data)
            return ""
        except QfaError as error:
            problem = error.what
    if given.entered and not given.problem:
        evidence.forget()
        return problem
    try:
        made_up = seeded_data(evidence.model.proto, seed=seed, samples=HELD_RUNS)
        evidence.gather(sites, made_up)
        return ""
    except QfaError as error:
        evidence.forget()
        return f"{problem}; {error.what}"
