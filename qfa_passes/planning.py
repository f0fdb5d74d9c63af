"""What every site gets: chosen for all scopes of a model together, for one function body serves them all."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qfa_passes.calibrate import SiteStatistics
from qfa_passes.config import Options, StopAfter
from qfa_passes.core.formats import AttentionFormat, Rotation
from qfa_passes.core.model import LoadedModel
from qfa_passes.core.plan import Plan, SitePlan
from qfa_passes.core.site import AttentionSite
from qfa_passes.evidence import Evidence
from qfa_passes.fuse.attach_body import holds_float, present_channels, present_rotation
from qfa_passes.graph.ir import Graph
from qfa_passes.opened import Scope
from qfa_passes.plan.choose import Candidate, candidates, choose, draft_plan, in_float
from qfa_passes.plan.fit import fit_plan
from qfa_passes.plan.plan_file import check_plan, read_plan
from qfa_passes.rewrite.own_views import blocked_view
from qfa_passes.verify.sites import SiteError

Errors = dict[str, SiteError]


@dataclass(frozen=True, slots=True)
class Part:
    """The sites of one scope that may be quantized, and what running it showed."""

    evidence: Evidence
    sites: Sequence[AttentionSite]


def left_in_float(scope: Scope, options: Options) -> dict[str, str]:
    """Sites of a scope that stay in float by choice, with the reason."""
    if options.attention is AttentionFormat.NONE:
        return {site.name: "attention format is none" for site in scope.sites}
    exempt: dict[str, str] = {}
    graph = Graph(scope.model.proto)
    for site in scope.sites:
        if any(pattern.search(site.name) for pattern in options.exclude):
            exempt[site.name] = "excluded by name"
            continue
        if options.attention is AttentionFormat.FLOAT:  # no Q/DQ pair will reach anybody
            continue
        for operand in (site.query, site.key, site.value):
            outsider = blocked_view(graph, operand)
            if outsider is not None:
                exempt[site.name] = f"{outsider} reads a reshaped Q, K or V of this block too"
    return exempt


def make_plan(
    source: LoadedModel,
    options: Options,
    parts: Sequence[Part],
    exempt: Mapping[str, str],
    *,
    known: Collection[str],
    real_data: bool,
) -> tuple[Plan, Errors]:
    """Decides, measures, and takes back what is out of bound or does not fit the others.

    A site whose error in int8 is out of bound is not quantized but fused all the same, if it is within the bound so.

    Args:
        source: The model; fused attention that it holds already binds the plan.
        options: Of the run.
        parts: The sites that may be quantized.
        exempt: Sites that stay in float, with the reason.
        known: Names that a given plan may use.
        real_data: Whether the runs are real data, so that a mean of K may be learned from them.
    """
    sites = [site for part in parts for site in part.sites]
    if options.plan is not None:
        plan = fit_plan(_given_plan(options.plan, source.digest, known), sites)
        errors = _measure(parts, plan)
    else:
        plan, errors = _best_plan(source, options, parts, shift_keys=real_data)
    if options.stop_after is not StopAfter.REWRITE:  # there is no Q/DQ graph of a site in float
        plan, better = _relieved(plan, errors, parts, options.max_error)
        errors = {**errors, **better}
    out = {name for name, error in errors.items() if not error.within(options.max_error)}
    kept = tuple(
        replace(entry, format=AttentionFormat.NONE) if entry.name in out else entry
        for entry in plan.sites
    )
    plan = replace(plan, sites=kept)
    return exempted(plan, {**exempt, **_misfits(source, plan, sites)}), errors


def exempted(plan: Plan, reasons: Mapping[str, str]) -> Plan:
    """The plan with some sites left in float, with the reason."""
    others = tuple(entry for entry in plan.sites if entry.name not in reasons)
    left = tuple(
        SitePlan(name, AttentionFormat.NONE, exempt=reason) for name, reason in reasons.items()
    )
    return replace(plan, sites=others + left)


def _best_plan(
    source: LoadedModel,
    options: Options,
    parts: Sequence[Part],
    *,
    shift_keys: bool,
) -> tuple[Plan, Errors]:
    """Measures every candidate on all sites and returns the best plan with its errors by site."""
    sites = [site for part in parts for site in part.sites]
    tried = candidates(
        options.rotation or present_rotation(source.proto),
        sites,
        shift_keys=shift_keys,
        scale_mode=options.scale_mode,
        attention=options.attention,
    )
    if not any(part.evidence.measures for part in parts):
        tried = tried[:1]
    statistics: dict[str, SiteStatistics] = {}
    for part in parts:
        statistics |= part.evidence.statistics
    measured: list[tuple[Candidate, Plan, Errors]] = []
    for candidate in tried:
        plan = draft_plan(
            source.digest, sites, statistics, candidate, options.attention, options.scale_mode
        )
        measured.append((candidate, plan, _measure(parts, plan)))
    return choose(measured, options.max_error)


def _relieved(
    plan: Plan, errors: Errors, parts: Sequence[Part], bound: float
) -> tuple[Plan, Errors]:
    """The plan with those sites in float whose error in int8 is out of bound; also returns their errors so."""
    notes: dict[str, str] = {}
    for entry in plan.sites:
        error = errors.get(entry.name)
        if entry.format is not AttentionFormat.INT8 or error is None or error.within(bound):
            continue
        if error.problem:
            notes[entry.name] = f"int8 does not run on it: {error.problem}"
        elif error.compared:
            limit = error.allowed(bound)
            notes[entry.name] = f"int8 NMSE {error.nmse:.2e} is above the bound {limit:.2e}"
    if not notes:
        return plan, {}
    changed = in_float(plan, notes)
    tried = replace(plan, sites=tuple(entry for entry in changed.sites if entry.name in notes))
    return changed, _measure(parts, tried)


def _measure(parts: Sequence[Part], plan: Plan) -> Errors:
    errors: Errors = {}
    for part in parts:
        errors |= part.evidence.measure(part.sites, plan)
    return errors


def _misfits(source: LoadedModel, plan: Plan, sites: Sequence[AttentionSite]) -> dict[str, str]:
    """Sites that one function body cannot serve together with the others: a rotation is made for one D.

    A body that serves sites in float too holds no rotation.
    """
    kept = {entry.format for entry in plan.sites if entry.quantized}
    if AttentionFormat.FLOAT in kept or holds_float(source.proto):
        return {}
    channels = {site.name: site.qk_channels for site in sites}
    rotated = [
        entry.name
        for entry in plan.sites
        if entry.quantized and entry.rotation is Rotation.HADAMARD
    ]
    if not rotated:
        return {}
    present = present_channels(source.proto) - {0}
    served = present.pop() if len(present) == 1 else channels[rotated[0]]
    return {
        name: f"its {channels[name]} channels are not the {served} that the model's rotation is for"
        for name in rotated
        if channels[name] != served
    }


def _given_plan(plan: Path | Plan, digest: str, names: Collection[str]) -> Plan:
    if isinstance(plan, Plan):
        check_plan(plan, "the given plan", digest, names)
        return plan
    return read_plan(plan, model_digest=digest, site_names=names)
