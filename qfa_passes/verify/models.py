"""Two whole models on the same data: outputs, predictions, speed and the guard's verdict."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from qfa_passes.core.comparison import ModelComparison, ModelFacts
from qfa_passes.core.dataset import DataSet, Feed
from qfa_passes.core.formats import AttentionFormat
from qfa_passes.core.model import LoadedModel
from qfa_passes.core.opspec import DOMAIN, OP_TYPE
from qfa_passes.core.walk import all_graphs
from qfa_passes.core.weights import FileSlice
from qfa_passes.errors import VerificationError
from qfa_passes.runtime.session import create_session, explain_failure
from qfa_passes.verify.guard import DEFAULT_LIMITS, GuardLimits, judge
from qfa_passes.verify.language import LanguageAccumulator
from qfa_passes.verify.latency import time_in_turns
from qfa_passes.verify.metrics import ErrorAccumulator

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

CALIBRATION_KEY: Final = "qfa.calibration_digest"
"""Model metadata: SHA-256 of the file that the model was calibrated with."""

_ROWS: Final = 64

Progress = Callable[[str, int, int], None]
Source = LoadedModel | Path


def verify_models(
    a: Source,
    b: Source,
    data: DataSet,
    *,
    latency_runs: int = 0,
    use_library: bool = True,
    threads: int | None = None,
    limits: GuardLimits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> ModelComparison:
    """Runs two models on the same data and compares everything they put out.

    Both are loaded at once (a model of 540 MB takes about 0.8 GB) and every output is dropped after
    its comparison, so memory does not grow with the data.

    Args:
        a: The reference, as a loaded model or a path.
        b: The model under test.
        data: Inputs that fit both.
        latency_runs: Timed runs of each model (fewer of slow ones); 0 for none.
        use_library: False runs the function bodies that fused models carry.
        threads: Threads per model; None leaves it to ONNX Runtime.
        limits: Of the guard.
        progress: Called with a phase, steps done and steps in all.

    Raises:
        RuntimeFailureError: A model does not load or run.
        VerificationError: The models have different inputs or outputs. A failed guard is no
            exception here: look at ``guard``.
    """
    report = progress or _silent
    report("load", 0, 2)
    session_a = create_session(a, use_library=use_library, threads=threads)
    report("load", 1, 2)
    session_b = create_session(b, use_library=use_library, threads=threads)
    report("load", 2, 2)
    outputs = _check_interfaces(session_a, session_b)
    meta_a, meta_b = _metadata(session_a), _metadata(session_b)
    warnings = []
    if data.seeded:
        warnings.append("random inputs show errors of the rewrite, not what it costs on real data")
    if data.digest and data.digest in (meta_a.get(CALIBRATION_KEY), meta_b.get(CALIBRATION_KEY)):
        warnings.append(
            "the verification data is the calibration data: the result is too favourable"
        )
    run_a, run_b = _Runner(_name(a), session_a, outputs), _Runner(_name(b), session_b, outputs)
    errors = {name: ErrorAccumulator() for name in outputs}
    language = LanguageAccumulator()
    predicted = False
    for number, feed in enumerate(data.feeds):
        report("compare", number, len(data.feeds))
        predicted |= _compare(feed, number, run_a, run_b, errors, language)
    report("compare", len(data.feeds), len(data.feeds))
    latency = None
    if latency_runs:
        report("time", 0, 1)
        feed = data.feeds[0]
        shape = ", ".join(f"{name} {array.shape}" for name, array in feed.items())
        latency = time_in_turns(lambda: run_a(feed, 0), lambda: run_b(feed, 0), latency_runs, shape)
        report("time", 1, 1)
    measured = {name: accumulator.result() for name, accumulator in errors.items()}
    predictions = language.result() if predicted and not data.seeded else None
    return ModelComparison(
        a=model_facts(a),
        b=model_facts(b),
        data=data.label,
        samples=len(data.feeds),
        outputs=measured,
        language=predictions,
        guard=judge(predictions, measured, limits),
        latency=latency,
        warnings=tuple(warnings),
    )


@dataclass(frozen=True, slots=True)
class _Runner:
    name: str
    session: "InferenceSession"
    outputs: Sequence[str]

    def __call__(self, feed: Feed, number: int) -> list[Any]:
        wanted = {node.name for node in self.session.get_inputs()}
        try:
            results: list[Any] = self.session.run(
                list(self.outputs), {name: array for name, array in feed.items() if name in wanted}
            )
        except Exception as error:  # ONNX Runtime's exceptions share no other base class
            shapes = ", ".join(f"{name} {array.shape}" for name, array in feed.items())
            raise explain_failure(
                f"{self.name}: ONNX Runtime failed on sample {number} ({shapes})", error
            ) from error
        return results


def _silent(phase: str, done: int, total: int) -> None:
    """The progress of a caller who wants none."""


def _compare(
    feed: Feed,
    number: int,
    run_a: _Runner,
    run_b: _Runner,
    errors: Mapping[str, ErrorAccumulator],
    language: LanguageAccumulator,
) -> bool:
    """Adds one feed to the measures; True if it held predictions of a language model."""
    results_a, results_b = run_a(feed, number), run_b(feed, number)
    predicted = False
    for name, first, second in zip(run_a.outputs, results_a, results_b, strict=True):
        try:
            errors[name].update(first, second)
        except (ValueError, TypeError) as error:
            raise VerificationError(
                f"output {name!r} of {run_a.name} and {run_b.name} cannot be compared",
                why=str(error),
            ) from error
        rows = prediction_rows(name, first, feed)
        if rows is not None and not predicted:
            _add_predictions(rows, first, second, feed["input_ids"], language)
            predicted = True
    return predicted


def _add_predictions(
    rows: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    first: npt.NDArray[np.generic],
    second: npt.NDArray[np.generic],
    tokens: npt.NDArray[np.generic],
    language: LanguageAccumulator,
) -> None:
    # Picking rows copies them; a few at a time keep a block of logits from existing twice.
    for start in range(0, rows[0].size, _ROWS):
        batch, position = (part[start : start + _ROWS] for part in rows)
        language.update(
            first[batch, position], second[batch, position], tokens[batch, position + 1]
        )


def prediction_rows(
    name: str, output: npt.NDArray[np.generic], feed: Feed
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Finds the predictions of a language model among its outputs.

    Args:
        name: Name of the output; only one that contains ``logits`` counts.
        output: Its value; logits are (B, S, V).
        feed: The inputs; ``input_ids`` (B, S) holds the tokens, ``attention_mask`` hides padding.

    Returns:
        Batch numbers (N) and positions (N) whose next token is known, or None.
    """
    tokens = feed.get("input_ids")
    if tokens is None or "logits" not in name.lower() or tokens.ndim != 2 or output.ndim != 3:
        return None
    if output.shape[:2] != tokens.shape or tokens.shape[1] < 2:
        return None
    if int(tokens.max()) >= output.shape[2]:
        return None  # classes, not a vocabulary
    mask = feed.get("attention_mask")
    known = np.ones(tokens.shape, bool) if mask is None else mask.astype(bool)
    batch, position = np.nonzero(known[:, :-1] & known[:, 1:])
    return (batch, position) if batch.size else None


def _check_interfaces(a: "InferenceSession", b: "InferenceSession") -> list[str]:
    inputs_a, inputs_b = ({node.name for node in s.get_inputs()} for s in (a, b))
    if not inputs_b <= inputs_a:
        raise VerificationError(
            "the models cannot be compared",
            why=f"the second takes inputs that the first lacks: {sorted(inputs_b - inputs_a)}",
        )
    outputs = [node.name for node in a.get_outputs()]
    others = [node.name for node in b.get_outputs()]
    if outputs != others:
        raise VerificationError(
            "the models cannot be compared", why=f"their outputs are {outputs} and {others}"
        )
    return outputs


def _metadata(session: "InferenceSession") -> dict[str, str]:
    return dict(session.get_modelmeta().custom_metadata_map)


def model_facts(source: Source) -> ModelFacts:
    """Returns name, size and number of fused nodes of a model; a bare path tells its name only."""
    if not isinstance(source, LoadedModel):
        return ModelFacts(_name(source))
    fused = [
        node
        for graph in all_graphs(source.proto)
        for node in graph.node
        if node.domain == DOMAIN and node.op_type == OP_TYPE
    ]
    wanted = AttentionFormat.FLOAT.value.encode()
    in_float = sum(
        any(item.name == "compute_format" and item.s == wanted for item in node.attribute)
        for node in fused
    )
    size = None
    if source.path is not None:
        files = {place.path for _, place in source.weights if isinstance(place, FileSlice)}
        size = sum(path.stat().st_size for path in files | {source.path})
    return ModelFacts(_name(source), size, len(fused), in_float=in_float)


def _name(source: Source) -> str:
    path = source.path if isinstance(source, LoadedModel) else source
    return path.name if path is not None else "<ModelProto>"
