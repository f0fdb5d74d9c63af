"""The outputs of a whole model before and after a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from qfa_passes.core.model import LoadedModel
from qfa_passes.errors import VerificationError
from qfa_passes.runtime.session import create_session
from qfa_passes.verify.metrics import tensor_error

Array = npt.NDArray[Any]

EXACT_BOUND: Final = 1e-8
"""NMSE of outputs after passes that promise the same numbers: room for the runtime to order sums differently."""


def compare_outputs(
    model: LoadedModel,
    feeds: Sequence[Mapping[str, Array]],
    wanted: Sequence[Mapping[str, Array]],
    *,
    library: bool,
) -> dict[str, float]:
    """Runs a model and returns the NMSE of each output against the values in ``wanted``, worst over the runs.

    Raises:
        VerificationError: An output is not finite where the reference is.
    """
    session = create_session(model, use_library=library, prepack=False)
    names = [value.name for value in session.get_outputs()]
    errors: dict[str, float] = dict.fromkeys(names, 0.0)
    for feed, reference in zip(feeds, wanted, strict=True):
        for name, got in zip(names, session.run(names, dict(feed)), strict=True):
            expected = np.asarray(reference[name])
            if expected.dtype.kind != "f":
                continue
            lost = np.isfinite(expected) & ~np.isfinite(got)
            if lost.any():
                raise VerificationError(
                    f"output '{name}' has {int(lost.sum())} values that are not finite, where the float model has numbers",
                    hint="exempt attention sites one by one with --exclude to find the cause, and report it",
                )
            errors[name] = max(errors[name], tensor_error(expected, got).nmse)
    return errors


def check_exact(
    before: LoadedModel, after: LoadedModel, feeds: Sequence[Mapping[str, Array]]
) -> None:
    """Checks a stage that promises the same numbers.

    Raises:
        VerificationError: An output moved.
    """
    session = create_session(before, prepack=False)
    names = [value.name for value in session.get_outputs()]
    reference = [dict(zip(names, session.run(names, dict(feed)), strict=True)) for feed in feeds]
    del session
    for name, nmse in compare_outputs(after, feeds, reference, library=True).items():
        if nmse > EXACT_BOUND:
            raise VerificationError(
                f"normalization changed output '{name}': NMSE {nmse:.1e}",
                why=f"its passes promise the same numbers (bound {EXACT_BOUND:.0e})",
                hint="please report this model",
            )
