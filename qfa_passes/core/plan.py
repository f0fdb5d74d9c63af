"""Plan: which arithmetic every attention site gets; obeyed by the passes, edited by people."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from qfa_passes.core.formats import AttentionFormat, LinearFormat, Rotation, ScaleMode

PLAN_VERSION: Final = 1
"""Version of the plan file; an older file stays readable, a newer one is refused."""


@dataclass(frozen=True, slots=True)
class StaticScales:
    """Values of one code step, calibrated or taken from Q/DQ pairs of the model.

    Attributes:
        query: One number, or one per query head (H).
        key: One number, or one per key/value head (Hkv).
        value: One number, or one per key/value head (Hkv).
    """

    query: tuple[float, ...]
    key: tuple[float, ...]
    value: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SitePlan:
    """What happens to one site.

    Attributes:
        name: The site's label (`AttentionSite.name`).
        format: Arithmetic of the two products; ``none`` leaves the site as it is.
        scale_mode: Who finds the quantization steps.
        rotation: Rotation of Q and K before quantization.
        scales: The steps if ``scale_mode`` is static, else None.
        k_mean: Key of `Plan.tensors` with the shift of K, (Hkv, D) float32; None for no shift.
        exempt: Why the site stays as it is (excluded by name or by the plan file); empty if it is
            rewritten.
        note: Why it has not the format that was asked for; for people alone.
    """

    name: str
    format: AttentionFormat = AttentionFormat.INT8
    scale_mode: ScaleMode = ScaleMode.DYNAMIC
    rotation: Rotation = Rotation.NONE
    scales: StaticScales | None = None
    k_mean: str | None = None
    exempt: str = ""
    note: str = ""

    @property
    def quantized(self) -> bool:
        """True if the site is rewritten."""
        return self.format is not AttentionFormat.NONE and not self.exempt


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of one model.

    Attributes:
        model_digest: `LoadedModel.digest` of the model it was made for; empty fits any model.
        sites: One entry per matched site, in graph order; a site without one gets the defaults.
        linear: Arithmetic of the linear layers.
        tensors: Arrays that sites refer to by key (``k_mean``); saved next to the plan file.
    """

    model_digest: str = ""
    sites: tuple[SitePlan, ...] = ()
    linear: LinearFormat = LinearFormat.NONE
    tensors: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    def site(self, name: str) -> SitePlan | None:
        """Returns the entry of a site, or None."""
        return next((entry for entry in self.sites if entry.name == name), None)

    def k_mean(self, site: SitePlan) -> npt.NDArray[np.float32] | None:
        """Returns the shift of K of a site, (Hkv, D), or None."""
        return None if site.k_mean is None else self.tensors[site.k_mean]
