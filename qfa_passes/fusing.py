"""The planned sites of one scope: marked by Q/DQ pairs, then fused."""

from __future__ import annotations

from collections.abc import Sequence

from qfa_passes.core.formats import AttentionFormat
from qfa_passes.core.model import LoadedModel
from qfa_passes.core.plan import Plan, SitePlan
from qfa_passes.core.site import AttentionSite
from qfa_passes.evidence import Evidence
from qfa_passes.fuse.fuse_attention import FuseAttention
from qfa_passes.graph.graph_pass import run_passes
from qfa_passes.graph.ir import Graph
from qfa_passes.graph.typed import typed
from qfa_passes.opened import Scope, matched
from qfa_passes.rewrite import InsertQdq


def mark(
    model: LoadedModel, plan: Plan, sites: Sequence[AttentionSite], evidence: Evidence
) -> LoadedModel | None:
    """Puts Q/DQ pairs on Q, K and V of every site that is planned in int8; None if there is none.

    Args:
        model: The scope, with changed bodies in it.
        plan: The plan.
        sites: Sites of the scope.
        evidence: What running it showed, for the steps.
    """
    pairs = []
    for site in sites:
        entry = plan.site(site.name)
        if entry is not None and entry.format is AttentionFormat.INT8 and entry.quantized:
            pairs.append((site, evidence.pair_steps(site, entry)))
    if not pairs:
        return None
    graph = Graph(model.proto)
    run_passes(graph, [InsertQdq(pairs)])
    return model.replace_proto(typed(graph.finish()))


def fuse(model: LoadedModel, plan: Plan, scope: Scope) -> tuple[LoadedModel | None, set[str]]:
    """Fuses the sites of a marked scope.

    Returns:
        The fused scope, or None if nothing is fused; and the names of planned sites that are not found again.
    """
    graph = Graph(model.proto)
    chosen: list[tuple[AttentionSite, SitePlan]] = []
    for site in matched(graph, scope.prefix):
        entry = plan.site(site.name) if isinstance(site, AttentionSite) else None
        if not isinstance(site, AttentionSite) or entry is None or not entry.quantized:
            continue
        if site.quantized or entry.format is AttentionFormat.FLOAT:
            chosen.append((site, entry))
    shifts = {site.name: plan.k_mean(entry) for site, entry in chosen}
    k_means = {name: shift for name, shift in shifts.items() if shift is not None}
    planned = {site.name for site in scope.sites if (e := plan.site(site.name)) and e.quantized}
    lost = planned - {site.name for site, _ in chosen}
    if lost or not chosen:
        return None, lost
    run_passes(graph, [FuseAttention(chosen, k_means)])
    return model.replace_proto(typed(graph.finish())), lost
