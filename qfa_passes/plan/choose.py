"""Statistics and measurements -> Plan: which rotation and shift the model gets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from qfa_passes.core.formats import AttentionFormat, Rotation, ScaleMode
from qfa_passes.core.plan import Plan, SitePlan, StaticScales
from qfa_passes.core.site import AttentionSite

_BETTER: Final = 0.9
"""A costlier candidate must bring the mean error below this fraction of the cheaper one's."""
_SMALLEST_BLOCK: Final = 8


class Statistics(Protocol):
    """What calibration knows of a site."""

    def scales(self) -> StaticScales:
        """Static steps."""
        ...

    def k_mean(self) -> npt.NDArray[np.float32] | None:
        """Mean key, (Hkv, D)."""
        ...


class Error(Protocol):
    """What was measured on a site."""

    @property
    def nmse(self) -> float:
        """Normalized mean squared error."""
        ...


_Errors = TypeVar("_Errors", bound=Mapping[str, Error])


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to treat Q and K before quantization, for all sites of a model."""

    rotation: Rotation
    shift_keys: bool


def candidates(
    rotation: Rotation | None,
    sites: Sequence[AttentionSite],
    *,
    shift_keys: bool,
    scale_mode: ScaleMode = ScaleMode.DYNAMIC,
    attention: AttentionFormat = AttentionFormat.INT8,
) -> list[Candidate]:
    """The candidates worth measuring, cheapest first.

    Static steps are those of the plain Q and K, so that only the plain treatment fits them. Where nothing is quantized,
    nothing needs treatment.

    Args:
        rotation: Fixed by the user; None tries all that the channel counts allow.
        sites: The sites; a model gets one rotation, and rotates only if all have the same, divisible D.
        shift_keys: Whether a calibrated mean of K may be subtracted.
        scale_mode: Of all sites.
        attention: Format of all sites.
    """
    if attention is AttentionFormat.FLOAT:
        return [Candidate(Rotation.NONE, shift_keys=False)]
    if scale_mode is ScaleMode.STATIC:
        return [Candidate(rotation or Rotation.NONE, shift_keys=False)]
    rotations = [Rotation.NONE] if rotation is None else [rotation]
    channels = {site.qk_channels for site in sites}
    if rotation is None and len(channels) == 1 and not next(iter(channels)) % _SMALLEST_BLOCK:
        rotations.append(Rotation.HADAMARD)
    shifts = (False, True) if shift_keys else (False,)
    return [Candidate(choice, shift) for choice in rotations for shift in shifts]


def draft_plan(
    digest: str,
    sites: Sequence[AttentionSite],
    statistics: Mapping[str, Statistics],
    candidate: Candidate,
    attention: AttentionFormat,
    scale_mode: ScaleMode,
) -> Plan:
    """The plan that treats every site like ``candidate``; where nothing is quantized, there is nothing more to say."""
    if attention is AttentionFormat.FLOAT:
        return Plan(digest, tuple(SitePlan(site.name, format=attention) for site in sites))
    entries: list[SitePlan] = []
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    for site in sites:
        known = statistics.get(site.name)
        shift = None
        if known is not None and candidate.shift_keys and takes_shift(site):
            shift = known.k_mean()
        if shift is not None:
            tensors[f"{site.name}/k_mean"] = shift
        static = scale_mode is ScaleMode.STATIC and known is not None
        entries.append(
            SitePlan(
                site.name,
                format=attention,
                scale_mode=scale_mode,
                rotation=candidate.rotation,
                scales=_own_or(site, known.scales()) if static and known is not None else None,
                k_mean=f"{site.name}/k_mean" if shift is not None else None,
            )
        )
    return Plan(digest, tuple(entries), tensors=tensors)


def takes_shift(site: AttentionSite) -> bool:
    """Whether the softmax does not see a shift that all keys share; a softcap and a sink do not shift with them."""
    return site.softcap == 0 and site.sink is None


def _own_or(site: AttentionSite, found: StaticScales) -> StaticScales:
    """The steps of the model's own Q/DQ pairs, where it has any, else those found."""
    return StaticScales(
        site.query.scale or found.query,
        site.key.scale or found.key,
        site.value.scale or found.value,
    )


def choose(
    measured: Iterable[tuple[Candidate, Plan, _Errors]], bound: float = math.inf
) -> tuple[Plan, _Errors]:
    """Picks the plan that keeps most sites within the bound, and of those the one with the smallest mean error.

    Ties and near-ties go to the cheaper one. Errors count as 1 at most: a site that fails under every candidate must
    not hide the others.
    """
    best: tuple[int, float, Plan, _Errors] | None = None
    for _, plan, errors in measured:
        lost = sum(not error.nmse <= bound for error in errors.values())
        bounded = [error.nmse if error.nmse < 1 else 1.0 for error in errors.values()]  # NaN too
        mean = float(np.mean(bounded)) if bounded else 0.0
        if best is None or lost < best[0] or (lost == best[0] and mean < _BETTER * best[1]):
            best = (lost, mean, plan, errors)
    assert best is not None, "there is always at least one candidate"
    return best[2], best[3]


def in_float(plan: Plan, notes: Mapping[str, str]) -> Plan:
    """The plan with some sites fused and not quantized, and a note each why."""
    entries = tuple(
        SitePlan(entry.name, AttentionFormat.FLOAT, note=notes[entry.name])
        if entry.name in notes
        else entry
        for entry in plan.sites
    )
    used = {entry.k_mean for entry in entries}
    tensors = {name: array for name, array in plan.tensors.items() if name in used}
    return replace(plan, sites=entries, tensors=tensors)
