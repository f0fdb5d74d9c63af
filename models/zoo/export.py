"""Exports one architecture by one exporter, and writes down what came of it."""

from __future__ import annotations

import importlib.metadata
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.exporters import Exporter, export_onnx
from models.zoo.blocks import count_blocks
from models.zoo.case import EAGER, SDPA, Architecture, Case, Variant
from models.zoo.record import Record, append_record
from models.zoo.samples import AGREES, Sample, disagreement, save_samples

_LONGEST = 400
_LIBRARIES = ("torch", "transformers", "diffusers", "onnxscript", "onnxruntime", "optimum-onnx")


@dataclass(frozen=True, slots=True)
class Writer:
    """An exporter, its opset, and how the library writes attention."""

    name: str
    exporter: Exporter
    attention: str


WRITERS = {
    writer.name: writer
    for writer in (
        Writer("ts17_eager", Exporter.TORCHSCRIPT17, EAGER),
        Writer("ts17_sdpa", Exporter.TORCHSCRIPT17, SDPA),
        Writer("dyn18_eager", Exporter.DYNAMO18, EAGER),
        Writer("dyn18_sdpa", Exporter.DYNAMO18, SDPA),
        Writer("dyn23_sdpa", Exporter.DYNAMO23, SDPA),
    )
}


def export_one(arch: Architecture, writer: Writer, folder: Path) -> Record:
    """Writes folder/<arch>_<exporter>.onnx and .npz and a line of the journal, also if the export fails."""
    name = f"{arch.name}_{writer.name}"
    start = time.perf_counter()
    blocks, failure, runtime = 0, "", ""
    (folder / f"{name}.onnx").unlink(missing_ok=True)
    try:
        with time_limit(_LONGEST):
            case = arch.build(Variant(writer.attention, writer.exporter is Exporter.DYNAMO23))
            samples = torch_samples(case)
            blocks = count_blocks(case.module, case.feeds[0])
            save_samples(folder / f"{name}.npz", samples)
            path = folder / f"{name}.onnx"
            export_onnx(case.module, case.feeds[0], case.outputs, case.axes, path, writer.exporter)
            runtime = run_check(path, samples)
    except Exception as error:
        failure = first_line(error)
    seconds = round(time.perf_counter() - start, 1)
    record = Record(
        name, arch.name, writer.name, blocks, failure, runtime, seconds, library_versions()
    )
    append_record(folder, record)
    return record


def torch_samples(case: Case) -> list[Sample]:
    """Runs the module on all its feeds."""
    import torch

    samples = []
    for feeds in case.feeds:
        with torch.no_grad():
            result: Any = case.module(*feeds.values())
        outputs = result if isinstance(result, tuple) else (result,)
        samples.append(
            Sample(
                {name: tensor.numpy() for name, tensor in feeds.items()},
                {name: t.numpy() for name, t in zip(case.outputs, outputs, strict=True)},
            )
        )
    return samples


def run_check(path: Path, samples: list[Sample]) -> str:
    """`ok` for each set that the untouched file computes as torch does, else what is wrong; joined by ` | `.

    Exporters write files that hold for the extents of the example only, and files that do not run at all.
    """
    verdicts = []
    for sample in samples:
        try:
            worst = disagreement(path, [sample])
        except Exception as error:
            verdicts.append(first_line(error))
        else:
            verdicts.append("ok" if worst < AGREES else f"differs from torch by {worst:.1e}")
    return " | ".join(verdicts) if set(verdicts) != {"ok"} else "ok"


def first_line(error: BaseException) -> str:
    """The class and the part of a message that fits a table."""
    text = re.sub(r"\x1b?\[\d+m", "", str(error))  # some are coloured
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    cause = error.__cause__
    text = f"{type(error).__name__}: {lines[0] if lines else ''}"
    if cause is not None and cause is not error:
        text += f" <- {first_line(cause)}"
    return text[:400]


def library_versions() -> dict[str, str]:
    """Of what is installed."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in the main thread when the block takes longer."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} seconds")

    previous = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
