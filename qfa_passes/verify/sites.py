"""Each rewritten site against the float subgraph that it replaces, on captured activations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto

from qfa_passes.core.formats import AttentionFormat
from qfa_passes.core.model import LoadedModel
from qfa_passes.core.site import AttentionSite
from qfa_passes.core.weights import WeightStore
from qfa_passes.errors import RuntimeFailureError
from qfa_passes.runtime.session import create_session
from qfa_passes.verify.metrics import ErrorAccumulator

Array = npt.NDArray[Any]

FLOAT_BOUNDS: Final[dict[int, float]] = {
    TensorProto.FLOAT: 1e-9,
    TensorProto.FLOAT16: 5e-5,
    TensorProto.BFLOAT16: 1e-3,
}
"""NMSE that a site may have that is fused and not quantized, by the type of its output.

It covers rounding alone, most of it in the float model: scores that are rounded to half precision move sharp weights.
Measured are up to 1e-13 in float32 (the models of models/zoo) and 5e-6 in float16 (standard attention nodes with
scores of 200).
"""


@dataclass(frozen=True, slots=True)
class SiteError:
    """Error of one site.

    Attributes:
        nmse: Sum of squared differences over the sum of squares of the float output.
        max_abs: Largest difference.
        compared: Number of output elements compared.
        limit: NMSE that its format may have, whatever a user allows.
        problem: Why the operator did not run; empty if it did.
    """

    nmse: float
    max_abs: float
    compared: int
    limit: float = math.inf
    problem: str = ""

    def allowed(self, bound: float) -> float:
        """The smaller of ``bound`` and the limit."""
        return min(bound, self.limit)

    def within(self, bound: float) -> bool:
        """True if numbers were compared and their NMSE is allowed."""
        return not self.problem and self.compared > 0 and self.nmse <= self.allowed(bound)


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
    total = ErrorAccumulator()
    compared = 0
    try:
        session = create_session(model, use_library=library, threads=threads)
    except RuntimeFailureError as error:
        return SiteError(math.inf, math.inf, 0, problem=error.why or error.what)
    names = [value.name for value in session.get_inputs()]
    for values in runs:
        wanted = np.asarray(values[site.output])
        try:
            (got,) = session.run([site.output], {name: values[name] for name in names})
        except Exception as error:  # ONNX Runtime's exceptions share no other base class
            return SiteError(math.inf, math.inf, 0, problem=str(error))
        rows = np.isfinite(wanted).all(axis=-1)
        compared += int(rows.sum()) * wanted.shape[-1]
        total.update(wanted[rows], got[rows])
    measured = total.result()
    return SiteError(measured.nmse, measured.max_abs, compared, _limit(site, replay))


def _limit(site: AttentionSite, replay: ModelProto) -> float:
    """NMSE that the format of the operator node allows at most; int8 is held against what the user says alone."""
    formats = {
        attribute.s.decode()
        for node in replay.graph.node
        for attribute in node.attribute
        if attribute.name == "compute_format"
    }
    return FLOAT_BOUNDS[site.dtype] if formats == {AttentionFormat.FLOAT} else math.inf
