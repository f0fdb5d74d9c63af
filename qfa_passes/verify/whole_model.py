"""The outputs of a whole model before and after a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, TensorProto

from qfa_passes.core.model import LoadedModel
from qfa_passes.errors import RuntimeFailureError, VerificationError
from qfa_passes.runtime.session import Optimization, create_session, explain_failure
from qfa_passes.verify.metrics import tensor_error

Array = npt.NDArray[Any]

EXACT_BOUND: Final = 1e-8
"""NMSE of outputs after passes that promise the same numbers: room for the runtime to order sums differently."""
_HALF_BOUND: Final = 1e-5
"""The same for models with weights in half precision."""
_LOUD: Final = 1e-4
"""NMSE that a user should hear of."""
_HALVES: Final = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


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
            lost = _lost(expected, got)
            if lost:
                raise VerificationError(
                    f"output '{name}' has {lost} values that are not finite",
                    why="the float model has numbers there",
                    hint="exempt attention sites one by one with --exclude to find the cause, and report it",
                )
            errors[name] = max(errors[name], tensor_error(expected, got).nmse)
    return errors


def tensor_outputs(graph: GraphProto) -> list[str]:
    """Names of the outputs that are tensors, not sequences, maps or optional values."""
    others = ("sequence_type", "map_type", "optional_type", "sparse_tensor_type")
    return [value.name for value in graph.output if value.type.WhichOneof("value") not in others]


def run_outputs(
    model: LoadedModel,
    feeds: Sequence[Mapping[str, Array]],
    optimization: Optimization = "all",
) -> list[dict[str, Array]]:
    """Runs a model and returns its outputs by name, run by run; only those that are tensors.

    Raises:
        RuntimeFailureError: The model does not run on one of the feeds.
    """
    session = create_session(model, optimization=optimization, prepack=False)
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
    source: LoadedModel,
    feeds: Sequence[Mapping[str, Array]],
    normal: Sequence[Mapping[str, Array]],
    stages: Sequence[tuple[str, Callable[[], LoadedModel]]],
    *,
    thorough: bool,
) -> str:
    """Checks passes that promise the same numbers: what they come to, and on failure each one, to name the guilty.

    Args:
        source: The original model.
        feeds: Its inputs.
        normal: Outputs of the model after all passes, run by run; other values may be among them.
        stages: Name of each pass and the model after it, in order.
        thorough: Runs the last stage as it is, and not just by the outputs in ``normal``.

    Returns:
        Why nothing can be told; empty if the numbers are the same.

    Raises:
        VerificationError: An output moved.
    """
    try:
        reference = run_outputs(source, feeds)
    except RuntimeFailureError as error:
        if thorough:
            raise
        return f"the original model does not run here, so its outputs are not compared: {error.why or error.what}"
    half = any(tensor.data_type in _HALVES for tensor in source.proto.graph.initializer)
    bound = _HALF_BOUND if half else EXACT_BOUND
    same = all(_same(wanted, got, bound) for wanted, got in zip(reference, normal, strict=True))
    if same and (
        not thorough or not stages or _moved(stages[-1][1](), feeds, reference, bound) is None
    ):
        return ""
    plain = run_outputs(source, feeds, optimization="none")
    unsteady = max(map(_distance, reference, plain), default=0.0)
    if unsteady > bound:  # then so small a difference has no meaning
        if unsteady < _LOUD:
            return ""
        return (
            f"the outputs of this model move by NMSE {unsteady:.1e} when the runtime does not optimize it:"
            " comparisons of whole outputs say little on these inputs"
        )
    for name, make in stages:
        moved = _moved(make(), feeds, reference, bound)
        if moved is not None:
            raise VerificationError(
                f"pass '{name}' changed output '{moved[0]}': NMSE {moved[1]:.1e}",
                why=f"it promises the same numbers (bound {bound:.0e})",
                hint="please report this model",
            )
    return ""


def _same(wanted: Mapping[str, Array], got: Mapping[str, Array], bound: float) -> bool:
    """True if the outputs ``wanted`` are in ``got``, up to rounding, and no number was lost."""
    return _distance(wanted, got) <= bound and not any(
        _lost(value, got[name]) for name, value in wanted.items() if value.dtype.kind == "f"
    )


def _distance(wanted: Mapping[str, Array], got: Mapping[str, Array]) -> float:
    """NMSE of the worst output where both have numbers; 1 if one that is no float differs, inf if a shape does."""
    worst = 0.0
    for name, value in wanted.items():
        other = np.asarray(got[name])
        if value.shape != other.shape:
            return np.inf
        if value.dtype.kind != "f":
            worst = max(worst, float(not np.array_equal(value, other)))
            continue
        finite = np.isfinite(value) & np.isfinite(other)
        worst = max(worst, tensor_error(value[finite], other[finite]).nmse)
    return worst


def _lost(expected: Array, got: Array) -> int:
    """How many numbers of ``expected`` are none in ``got``."""
    return int((np.isfinite(expected) & ~np.isfinite(got)).sum())


def _moved(
    model: LoadedModel,
    feeds: Sequence[Mapping[str, Array]],
    reference: Sequence[Mapping[str, Array]],
    bound: float,
) -> tuple[str, float] | None:
    errors = compare_outputs(model, feeds, reference, library=True)
    return next(((name, nmse) for name, nmse in errors.items() if nmse > bound), None)
