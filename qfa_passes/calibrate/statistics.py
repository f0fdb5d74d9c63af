"""Streaming, mergeable statistics of one attention site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from qfa_passes.core.plan import StaticScales
from qfa_passes.core.site import AttentionSite, Operand
from qfa_passes.core.view import apply_views
from qfa_passes.errors import InvalidDataError

Array = npt.NDArray[Any]
_CODES = 127
_SMALLEST_STEP = float(np.finfo(np.float32).tiny)
"""A smaller step would be 0, or nearly so, in float32."""


@dataclass(slots=True)
class SiteStatistics:
    """What Q, K and V of one site looked like so far.

    Attributes:
        site: The site.
        peaks: Largest magnitude of Q, K and V.
        key_sum: Sum of K over batches and keys, (Hkv, D), float64; past keys count too.
        keys: Number of keys summed.
    """

    site: AttentionSite
    peaks: dict[str, float] = field(default_factory=lambda: dict.fromkeys("qkv", 0.0))
    key_sum: npt.NDArray[np.float64] | None = None
    keys: int = 0

    def update(self, values: Mapping[str, Array], run: str) -> None:
        """Adds one run.

        Args:
            values: Captured values by name.
            run: Words for the run, for messages.

        Raises:
            InvalidDataError: Q, K or V holds NaN or infinity.
        """
        for letter in "qkv":
            for array in self._parts(values, letter):
                peak = float(np.max(np.abs(array), initial=0.0))
                if not np.isfinite(peak):
                    raise InvalidDataError(
                        f"{letter.upper()} of attention '{self.site.name}' is not finite in {run}",
                        hint="remove this sample, or check the model on it in float",
                    )
                self.peaks[letter] = max(self.peaks[letter], peak)
        for keys in self._parts(values, "k"):
            total = keys.astype(np.float64).sum(axis=(0, 2))
            self.key_sum = total if self.key_sum is None else self.key_sum + total
            self.keys += keys.shape[0] * keys.shape[2]

    def _parts(self, values: Mapping[str, Array], letter: str) -> list[Array]:
        """What the products read of Q, K or V, as (B, heads, rows, channels): the past apart from the new."""
        site = self.site
        operand = {"q": site.query, "k": site.key, "v": site.value}[letter]
        parts = [canonical(values, operand)]
        if site.cache is not None and letter != "q":
            past = site.cache.past_key if letter == "k" else site.cache.past_value
            parts.append(values[past])
        return parts

    def scales(self) -> StaticScales:
        """Static steps: the largest magnitude over 127 for each of Q, K and V."""
        query, key, value = (
            max(peak / _CODES, _SMALLEST_STEP) if peak else 1.0 for peak in self.peaks.values()
        )
        return StaticScales((query,), (key,), (value,))

    def k_mean(self) -> npt.NDArray[np.float32] | None:
        """Mean key per head and channel, (Hkv, D); None before the first run."""
        return (
            None if self.key_sum is None else (self.key_sum / max(self.keys, 1)).astype(np.float32)
        )


def canonical(values: Mapping[str, Array], operand: Operand) -> Array:
    """The operand as (B, heads, rows, channels)."""
    return apply_views(values[operand.tensor], operand.views)
