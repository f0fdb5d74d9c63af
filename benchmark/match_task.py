"""What a matcher is asked, what it answers, and how a result is held against torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.zoo.samples import AGREES, Sample, load_samples, relative_difference

if TYPE_CHECKING:
    import onnx

INT8_AGREES = 2e-2
"""Largest mean squared error of an output, relative to its mean square, that eight bits through two layers may make."""


@dataclass(frozen=True, slots=True)
class Task:
    """One model for one matcher.

    Attributes:
        path: The export.
        arch: Its architecture.
        blocks: How many attention blocks it has: a peer that reached all of them need not be tried in other ways.
        sets: Indices of the sample sets that the untouched file computes as torch does; None: all.
    """

    path: str
    arch: str
    blocks: int
    sets: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a matcher reached on one model.

    Attributes:
        fused: Blocks.
        wrong: Whether the outputs are not torch's any more, though they were before.
        error: The largest difference, or the mean squared error of integer formats; nan if nothing was compared.
        refusals: Reasons, of those who give any.
        problem: What it died of, or why its result does not load.
    """

    fused: int = 0
    wrong: bool = False
    error: float = float("nan")
    refusals: tuple[str, ...] = ()
    problem: str = ""


def runnable(task: Task) -> list[Sample]:
    """The sample sets that the untouched file computes as torch does."""
    samples = load_samples(Path(task.path).with_suffix(".npz"))
    return samples if task.sets is None else [samples[index] for index in task.sets]


def compared(
    result: onnx.ModelProto,
    task: Task,
    answer: Answer,
    *,
    options: Any = None,
    quantized: bool = False,
) -> Answer:
    """Runs a result on the sets that the untouched file computes as torch does; a result must at least load."""
    import onnxruntime

    options = options or onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        result.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    known = {value.name for value in session.get_inputs()}
    errors = []
    for sample in runnable(task):
        feeds = {name: array for name, array in sample.inputs.items() if name in known}
        outputs = session.run(list(sample.outputs), feeds)
        errors.append(_error(sample, outputs, quantized))
    worst = max(errors, default=float("nan"))
    limit = INT8_AGREES if quantized else 10 * AGREES
    return Answer(answer.fused, bool(errors) and not worst <= limit, worst, answer.refusals)


def _error(sample: Sample, outputs: list[Any], quantized: bool) -> float:
    import numpy as np

    worst = 0.0
    for expected, actual in zip(sample.outputs.values(), outputs, strict=True):
        if expected.shape != actual.shape:
            return float("inf")
        if quantized and expected.size:
            wanted, got = expected.astype(np.float64), actual.astype(np.float64)
            error = float(np.mean((got - wanted) ** 2) / max(np.mean(wanted**2), 1e-12))
            worst = max(worst, float("inf") if np.isnan(error) else error)
        else:
            worst = max(worst, relative_difference(actual, expected))
    return worst


def brief(error: BaseException) -> str:
    """Class and first line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
