"""A plan that a person has edited, made to fit the sites of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qfa_passes.core.formats import AttentionFormat, Rotation, ScaleMode
from qfa_passes.core.plan import Plan, SitePlan
from qfa_passes.core.printable import printable
from qfa_passes.core.site import AttentionSite
from qfa_passes.errors import ConfigError
from qfa_passes.plan.choose import takes_shift


def fit_plan(plan: Plan, sites: Sequence[AttentionSite]) -> Plan:
    """Checks the shapes in a plan and completes it.

    Sites that it does not name are treated like those that it does, first of all like those in int8: one function body
    serves a whole model, so that their scale mode and rotation must agree.

    Args:
        plan: The plan.
        sites: Sites that may be quantized, in graph order; entries of others are dropped.

    Returns:
        One entry per site, in graph order.

    Raises:
        ConfigError: Steps or a shift do not fit the heads and channels of a site.
    """
    fused = [entry for entry in plan.sites if entry.quantized]
    quantized = (entry for entry in fused if entry.format is AttentionFormat.INT8)
    pattern = next(quantized, fused[0] if fused else SitePlan(""))
    default = SitePlan("", format=pattern.format, rotation=pattern.rotation)
    entries = []
    for site in sites:
        entry = plan.site(site.name) or replace(default, name=site.name)
        _check_format(entry)
        _check_steps(site, entry)
        _check_shift(site, entry, plan)
        entries.append(
            entry if entry.format is not AttentionFormat.INT8 else replace(entry, note="")
        )
    return replace(plan, sites=tuple(entries))


def _check_format(entry: SitePlan) -> None:
    told = {
        "scale_mode": entry.scale_mode is not ScaleMode.DYNAMIC,
        "rotate": entry.rotation is not Rotation.NONE,
        "scales": entry.scales is not None,
        "k_mean": entry.k_mean is not None,
    }
    idle = [name for name, given in told.items() if given]
    if entry.format is AttentionFormat.FLOAT and idle:
        raise ConfigError(
            f"the plan gives format float and {', '.join(idle)} to site '{printable(entry.name)}'",
            why="nothing is quantized in float",
            hint="remove these keys, or use format int8",
        )


def _check_steps(site: AttentionSite, entry: SitePlan) -> None:
    if entry.scales is None:
        return
    for word, steps, heads in (
        ("query", entry.scales.query, site.num_heads),
        ("key", entry.scales.key, site.kv_num_heads),
        ("value", entry.scales.value, site.kv_num_heads),
    ):
        if len(steps) not in (1, heads):
            raise ConfigError(
                f"the plan gives {len(steps)} {word} scales to site '{printable(site.name)}'",
                why=f"it has {heads} {word} heads",
                hint=f"give one number or {heads}",
            )


def _check_shift(site: AttentionSite, entry: SitePlan, plan: Plan) -> None:
    shift = plan.k_mean(entry)
    if shift is not None and not takes_shift(site):
        raise ConfigError(
            f"the plan gives a k_mean to site '{printable(site.name)}'",
            why="it has a softcap or a sink, which a shift of all keys would change",
            hint="remove the key k_mean",
        )
    wanted = (site.kv_num_heads, site.qk_channels)
    if shift is not None and shift.shape != wanted:
        raise ConfigError(
            f"k_mean of site '{printable(site.name)}' in the plan has shape {shift.shape}",
            why=f"its keys have {wanted[0]} heads of {wanted[1]} channels",
            hint="calibrate again, or remove the key k_mean",
        )
