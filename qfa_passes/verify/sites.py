"""Each rewritten site against the float subgraph that it replaces, on captured activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from qfa_passes.core.model import LoadedModel
from qfa_passes.core.site import AttentionSite
from qfa_passes.core.weights import WeightStore
from qfa_passes.runtime.session import create_session
from qfa_passes.verify.metrics import ErrorAccumulator

Array = npt.NDArray[Any]

INT8_BOUND: Final = 5e-4
"""NMSE that a site may have in int8 (docs/operator.md)."""


@dataclass(frozen=True, slots=True)
class SiteError:
    """Error of one site.

    Attributes:
        nmse: Sum of squared differences over the sum of squares of the float output.
        max_abs: Largest difference.
        compared: Number of output elements compared.
    """

    nmse: float
    max_abs: float
    compared: int

    def within(self, bound: float) -> bool:
        """True if numbers were compared and their NMSE is at most ``bound``."""
        return self.compared > 0 and self.nmse <= bound


def measure_site(
    site: AttentionSite,
    replay: ModelProto,
    runs: Sequence[Mapping[str, Array]],
    *,
    library: bool,
    threads: int | None = None,
) -> SiteError:
    """Runs a replay model on captured inputs and compares with the captured output.

    Rows where the float model has no number (a fully masked row without a guard) are left out: there the operator
    gives zeros by contract.

    Args:
        site: The site.
        replay: The model of its operator node alone.
        runs: Captured values, the site's output among them.
        library: Whether to use the custom-op library; without it the function body runs.
        threads: Threads of the runtime.
    """
    model = LoadedModel(replay, WeightStore(), None, "")
    session = create_session(model, use_library=library, threads=threads)
    names = [value.name for value in session.get_inputs()]
    total = ErrorAccumulator()
    compared = 0
    for values in runs:
        wanted = np.asarray(values[site.output])
        (got,) = session.run(None, {name: values[name] for name in names})
        rows = np.isfinite(wanted).all(axis=-1)
        compared += int(rows.sum()) * wanted.shape[-1]
        total.update(wanted[rows], got[rows])
    error = total.result()
    return SiteError(error.nmse, error.max_abs, compared)
