"""The Python API: optimize, inspect, compare, doctor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from onnx import ModelProto

from qfa_passes import pipeline
from qfa_passes.config import FORMATS, Options, Progress, StopAfter, parse_choice, parse_patterns
from qfa_passes.core.dataset import DataSet
from qfa_passes.core.formats import (
    INT8_BOUND,
    AttentionFormat,
    LinearFormat,
    Rotation,
    ScaleMode,
    VerifyLevel,
)
from qfa_passes.core.model import LoadedModel
from qfa_passes.core.outcome import Report
from qfa_passes.core.plan import Plan
from qfa_passes.core.site import AttentionSite, Refusal
from qfa_passes.data import read_data
from qfa_passes.errors import UsageError
from qfa_passes.inspection import Inspection
from qfa_passes.load import read_model
from qfa_passes.opened import find_attention
from qfa_passes.save import to_model_proto, write_model
from qfa_passes.verify.models import model_facts, verify_models

if TYPE_CHECKING:
    from qfa_passes.core.comparison import ModelComparison, ModelFacts
    from qfa_passes.runtime.doctor import DoctorReport

Source = str | os.PathLike[str] | bytes | ModelProto
ExternalData = Literal["auto", "always", "never"]


@dataclass(slots=True)
class Optimized:
    """What `optimize` made.

    Attributes:
        loaded: The result with its weights where they are (in the source's files, mostly).
        plan: What each site got; pass it back to `optimize`, or write it with `qfa_passes.plan.plan_file.write_plan`.
        report: What happened.
    """

    loaded: LoadedModel
    plan: Plan
    report: Report
    _model: ModelProto | None = field(default=None, repr=False)

    @property
    def model(self) -> ModelProto:
        """The result as one ModelProto with all weights inside.

        Raises:
            SaveError: It exceeds 2 GiB; use `save`.
        """
        if self._model is None:
            self._model = to_model_proto(self.loaded)
        return self._model

    def save(self, path: str | os.PathLike[str], *, external_data: ExternalData = "auto") -> None:
        """Writes the result, atomically; weights go to a data file beside it where one file cannot hold them."""
        write_model(self.loaded, path, external_data=external_data)


def optimize(
    model: Source,
    *,
    output: str | os.PathLike[str] | None = None,
    format: str = "int8",
    attention: str | None = None,
    linear: str | None = None,
    scale_mode: str = "dynamic",
    rotate: str = "auto",
    calibration: str | os.PathLike[str] | DataSet | None = None,
    tokenizer: str | None = None,
    stop_after: str | None = None,
    verify: str = "fast",
    exclude: str | Sequence[str] = (),
    plan: str | os.PathLike[str] | Plan | None = None,
    max_error: float = INT8_BOUND,
    external_data: ExternalData = "auto",
    seed: int = 0,
    require_match: bool = False,
    dry_run: bool = False,
    allow_links_within: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Optimized:
    """Finds every attention of a model, quantizes it and fuses it into QuantFlashAttention.

    Args:
        model: Path, bytes or ModelProto; never changed.
        output: Where to save the result; None saves nothing.
        format: Sets attention and linear layers together: ``int8``, or ``float`` (also ``fp16``), in which attention is
            fused and not quantized.
        attention: Attention alone: ``int8``, ``float`` or ``none``.
        linear: Linear layers alone: ``none``.
        scale_mode: ``dynamic`` (the operator finds a step per token) or ``static`` (calibrated steps).
        rotate: ``auto``, ``none`` or ``hadamard``: rotation of Q and K; ``auto`` measures both in dynamic mode.
        calibration: A .npz or .txt file or a DataSet; None uses seeded random inputs and says so.
        tokenizer: Of a .txt file: ``bytes`` or a tokenizer.json; None looks into the model's metadata and folder.
        stop_after: ``normalize``, ``rewrite`` (the Q/DQ graph) or ``fuse`` (the default).
        verify: ``off``, ``fast`` (every site proven and measured, and the outputs) or ``full`` (more runs, every pass).
        exclude: A regular expression or several; sites whose name matches stay in float.
        plan: Plan, or plan file, to obey.
        max_error: Largest NMSE of a site; beyond it the site is fused in float, or stays as it is if that is not
            the same either.
        external_data: ``auto``, ``always`` or ``never``.
        seed: Of inputs made up for verification.
        require_match: Raise NothingMatchedError if nothing was fused.
        dry_run: Do everything but write files.
        allow_links_within: Accept data files behind links if the real file lies in this folder.
        progress: Called with (stage, done, total).

    Raises:
        QfaError: A subclass with code, cause and hint; see `qfa_passes.errors`.
    """
    preset = FORMATS.get(format)
    if preset is None:
        raise UsageError(f"format is '{format}'", hint=f"choose one of: {', '.join(FORMATS)}")
    options = Options(
        attention=parse_choice(AttentionFormat, attention or preset[0], "attention"),
        linear=parse_choice(LinearFormat, linear or preset[1], "linear"),
        scale_mode=parse_choice(ScaleMode, scale_mode, "scale_mode"),
        rotation=None if rotate == "auto" else parse_choice(Rotation, rotate, "rotate"),
        stop_after=parse_choice(StopAfter, stop_after or StopAfter.FUSE, "stop_after"),
        verify=parse_choice(VerifyLevel, verify, "verify"),
        exclude=parse_patterns((exclude,) if isinstance(exclude, str) else tuple(exclude)),
        plan=plan if plan is None or isinstance(plan, Plan) else Path(plan),
        max_error=max_error,
        external_data=external_data,
        seed=seed,
        require_match=require_match,
        dry_run=dry_run,
    )
    _check_numbers(options)
    loaded = _loaded(model, allow_links_within)
    data = _calibration(calibration, loaded, tokenizer)
    outcome = pipeline.Run(loaded, options, data, progress)(
        None if output is None else Path(output)
    )
    return Optimized(outcome.model, outcome.plan, outcome.report)


def inspect(
    model: Source, *, allow_links_within: str | os.PathLike[str] | None = None
) -> list[AttentionSite | Refusal]:
    """Returns every attention block of a model: as a site, or as a refusal with its reason.

    Args:
        model: Path, bytes or ModelProto; never changed.
        allow_links_within: Accept data files behind links if the real file lies in this folder.
    """
    return list(inspection(model, allow_links_within=allow_links_within).found)


def inspection(
    model: Source, *, allow_links_within: str | os.PathLike[str] | None = None
) -> Inspection:
    """Returns the attention of a model with its exporter; ``about(node)`` tells what became of one node.

    Args:
        model: Path, bytes or ModelProto; never changed.
        allow_links_within: Accept data files behind links if the real file lies in this folder.
    """
    return Inspection.of(_loaded(model, allow_links_within))


def count_fused(model: Source, *, allow_links_within: str | os.PathLike[str] | None = None) -> int:
    """Returns how many attention blocks of a model are QuantFlashAttention already.

    Args:
        model: Path, bytes or ModelProto; never changed.
        allow_links_within: Accept data files behind links if the real file lies in this folder.
    """
    return model_facts(_loaded(model, allow_links_within)).fused or 0


def compare(
    a: str | os.PathLike[str] | LoadedModel,
    b: str | os.PathLike[str] | LoadedModel,
    data: str | os.PathLike[str] | DataSet | None = None,
    *,
    tokenizer: str | None = None,
    samples: int | None = None,
    context: int = 512,
    latency_runs: int = 0,
    use_library: bool = True,
    threads: int | None = None,
    allow_links_within: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> ModelComparison:
    """Compares two models on data: outputs, and for language models perplexity, divergence and top-1 agreement.

    Args:
        a: The reference.
        b: The model under test.
        data: A .txt or .npz file, a DataSet, or None for seeded random inputs.
        tokenizer: ``bytes`` or a tokenizer.json; None looks into the models' metadata and folders.
        samples: Blocks of text or samples; None for 16 blocks, or all samples.
        context: Tokens per block.
        latency_runs: Timed runs of each model.
        use_library: False runs the function bodies that fused models carry.
        threads: Threads per model.
        allow_links_within: Accept data files behind links if the real file lies in this folder.
        progress: Called with (stage, done, total).
    """
    first, second = _loaded(a, allow_links_within), _loaded(b, allow_links_within)
    if not isinstance(data, DataSet):
        path = None if data is None else _path_of_data(data)
        data = read_data(path, first, tokenizer=tokenizer, samples=samples, context=context)
    found = verify_models(
        first,
        second,
        data,
        latency_runs=latency_runs,
        use_library=use_library,
        threads=threads,
        progress=progress,
    )
    return replace(found, a=_with_attention(found.a, first), b=_with_attention(found.b, second))


def doctor() -> DoctorReport:
    """Checks the installation: versions, library, instruction sets, a self-test of the operator."""
    from qfa_passes.runtime.doctor import run_doctor

    return run_doctor()


def _check_numbers(options: Options) -> None:
    if not options.max_error >= 0:
        raise UsageError(
            f"max_error is {options.max_error}", hint="give a number that is not negative"
        )
    if options.seed < 0:
        raise UsageError(f"seed is {options.seed}", hint="give a number that is not negative")
    if options.external_data not in get_args(ExternalData):
        words = ", ".join(get_args(ExternalData))
        raise UsageError(
            f"external_data is '{options.external_data}'", hint=f"choose one of: {words}"
        )
    static = options.scale_mode is ScaleMode.STATIC and options.plan is None
    if static and options.rotation is Rotation.HADAMARD:
        raise UsageError(
            "rotate is 'hadamard' with scale_mode 'static'",
            why="calibration finds the steps of Q and K as they are, not rotated",
            hint="use rotate='none', or scale_mode='dynamic'",
        )


def _with_attention(facts: ModelFacts, model: LoadedModel) -> ModelFacts:
    found = find_attention(model)
    return replace(facts, attention=sum(isinstance(entry, AttentionSite) for entry in found))


def _loaded(
    model: Source | LoadedModel, allow_links_within: str | os.PathLike[str] | None
) -> LoadedModel:
    if isinstance(model, LoadedModel):
        return model
    if not isinstance(model, str | os.PathLike | bytes | ModelProto):
        raise UsageError(
            f"the model is a {type(model).__name__}", hint="give a path, bytes or a ModelProto"
        )
    allowed = None if allow_links_within is None else Path(allow_links_within)
    return read_model(model, allow_links_within=allowed)


def _calibration(
    given: str | os.PathLike[str] | DataSet | None, model: LoadedModel, tokenizer: str | None
) -> DataSet | None:
    if given is None or isinstance(given, DataSet):
        return given
    return read_data(_path_of_data(given), model, tokenizer=tokenizer)


def _path_of_data(given: object) -> Path:
    if isinstance(given, str | os.PathLike):
        return Path(given)
    raise UsageError(
        f"the data is a {type(given).__name__}",
        hint="give the path of a .txt or .npz file; numpy.savez(path, **arrays) writes one",
    )
