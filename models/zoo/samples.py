"""Inputs and torch outputs of an export: `<name>.npz`, keys `<set>/in/<input>` and `<set>/out/<output>`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]

# Differences are relative to the spread of the output.
AGREES = 1e-4
_LEAST_SPREAD = 1e-3


@dataclass(frozen=True, slots=True)
class Sample:
    """One set of inputs, and what torch computes of it."""

    inputs: Arrays
    outputs: Arrays


def save_samples(path: Path, samples: list[Sample]) -> None:
    """Writes all sets into one file."""
    arrays = {}
    for index, sample in enumerate(samples):
        arrays.update({f"{index}/in/{name}": array for name, array in sample.inputs.items()})
        arrays.update({f"{index}/out/{name}": array for name, array in sample.outputs.items()})
    np.savez_compressed(path, **arrays)


def load_samples(path: Path) -> list[Sample]:
    """Reads what `save_samples` wrote."""
    samples: dict[str, Sample] = {}
    with np.load(path) as archive:
        for key in archive.files:
            index, kind, name = key.split("/", 2)
            sample = samples.setdefault(index, Sample({}, {}))
            (sample.inputs if kind == "in" else sample.outputs)[name] = archive[key]
    return list(samples.values())


def disagreement(path: Path | bytes, samples: list[Sample], **session: Any) -> float:
    """The largest difference of ONNX Runtime's outputs from torch's, over all sets; raises what it raises.

    Args:
        path: The model, or its bytes.
        samples: What to run.
        session: Arguments of InferenceSession.
    """
    import onnxruntime

    options = session.pop("sess_options", None) or onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    model = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"], **session
    )
    known = {value.name for value in model.get_inputs()}
    worst = 0.0
    for sample in samples:
        # An exporter may drop an input that nothing depends on.
        feeds = {name: array for name, array in sample.inputs.items() if name in known}
        names = list(sample.outputs)
        for name, actual in zip(names, model.run(names, feeds), strict=True):
            expected = sample.outputs[name]
            if actual.shape != expected.shape:
                raise ValueError(f"{name} has shape {actual.shape}, in torch {expected.shape}")
            worst = max(worst, relative_difference(actual, expected))
    return worst


def relative_difference(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """The largest difference over the standard deviation of what is expected; inf if a number is missing."""
    if expected.size == 0:
        return 0.0
    wanted = expected.astype(np.float64)
    difference = np.abs(actual.astype(np.float64) - wanted)
    if np.isnan(difference).any():
        return float("inf")
    return float(difference.max()) / max(_LEAST_SPREAD, float(wanted.std()))
