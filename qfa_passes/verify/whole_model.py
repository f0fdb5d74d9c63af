"""The outputs of a whole model before and after a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import GraphProto

from qfa_passes.core.model import LoadedModel
from qfa_passes.errors import VerificationError
from qfa_passes.runtime.session import create_session, explain_failure
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
    names = [value.name for value in session.get_outputs() if value.name in wanted[0]]
    errors: dict[str, float] = dict.fromkeys(names, 0.0)
    if not names:
        return errors
    for feed, reference in zip(feeds, wanted, strict=True):
        for name, got in zip(names, session.run(names, dict(feed)), strict=True):
            expected = np.asarray(reference[name])
            if expected.dtype.kind != "f":
                continue
            lost = np.isfinite(expected) & ~np.isfinite(got)
            if lost.any():
                raise VerificationError(
                    f"output '{name}' has {int(lost.sum())} values that are not finite",
                    why="the float model has numbers there",
                    hint="exempt attention sites one by one with --exclude to find the cause, and report it",
                )
            errors[name] = max(errors[name], tensor_error(expected, got).nmse)
    return errors


def tensor_outputs(graph: GraphProto) -> list[str]:
    """Names of the outputs that are tensors, not sequences, maps or optional values."""
    others = ("sequence_type", "map_type", "optional_type", "sparse_tensor_type")
    return [value.name for value in graph.output if value.type.WhichOneof("value") not in others]


def run_outputs(model: LoadedModel, feeds: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
    """Runs a model and returns its outputs by name, run by run; only those that are tensors.

    Raises:
        RuntimeFailureError: The model does not run on one of the feeds.
    """
    session = create_session(model, prepack=False)
    names = tensor_outputs(model.proto.graph)
    if not names:
        return [{} for _ in feeds]
    results = []
    for number, feed in enumerate(feeds):
        try:
            values = session.run(names, dict(feed))
        except Exception as error:  # ONNX Runtime has a type of its own for each failure
            raise explain_failure(f"the original model failed on run {number}", error) from error
        results.append(dict(zip(names, values, strict=True)))
    return results


def check_exact(
    reference: Sequence[Mapping[str, Array]],
    feeds: Sequence[Mapping[str, Array]],
    stages: Sequence[tuple[str, Callable[[], LoadedModel]]],
) -> None:
    """Checks passes that promise the same numbers: the last stage, and on failure each one, to name the guilty.

    Args:
        reference: Outputs of the original model.
        feeds: Its inputs.
        stages: Name of each pass and the model after it, in order.

    Raises:
        VerificationError: An output moved.
    """
    if not stages or _moved(stages[-1][1](), feeds, reference) is None:
        return
    for name, make in stages:
        moved = _moved(make(), feeds, reference)
        if moved is not None:
            raise VerificationError(
                f"pass '{name}' changed output '{moved[0]}': NMSE {moved[1]:.1e}",
                why=f"it promises the same numbers (bound {EXACT_BOUND:.0e})",
                hint="please report this model",
            )


def _moved(
    model: LoadedModel,
    feeds: Sequence[Mapping[str, Array]],
    reference: Sequence[Mapping[str, Array]],
) -> tuple[str, float] | None:
    errors = compare_outputs(model, feeds, reference, library=True)
    return next(((name, nmse) for name, nmse in errors.items() if nmse > EXACT_BOUND), None)
