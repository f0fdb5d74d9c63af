"""One matcher on one model after another: reads tasks as JSON lines, answers each with a line.

    python -m benchmark.match_worker MATCHER

It runs as a process of its own: optimizers crash, hang, and leave state behind.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.zoo.samples import AGREES, Sample, load_samples

if TYPE_CHECKING:
    import onnx

# What an optimizer may write attention as. The ai.onnx op is not among them: exporters write it themselves.
FUSED_OPS = frozenset(
    (
        "Attention",
        "DecoderMaskedMultiHeadAttention",
        "GroupQueryAttention",
        "MultiHeadAttention",
        "PackedAttention",
        "PackedMultiHeadAttention",
        "QAttention",
        "QOrderedAttention",
        "SparseAttention",
    )
)
# The optimizer of ONNX Runtime wants to be told what kind of model it is; these are tried for each architecture.
_TYPES = {
    "bart": ("bart", "bert"),
    "beit": ("vit", "bert"),
    "clip": ("clip", "vit", "bert"),
    "detr": ("bart", "bert"),
    "dinov2": ("vit", "bert"),
    "dit": ("mmdit", "unet", "bert"),
    "falcon": ("phi", "gpt2", "bert"),
    "gpt_neox": ("gpt_neox", "gpt2", "bert"),
    "gpt": ("gpt2", "bert"),
    "llama": ("phi", "gpt2", "bert"),
    "m2m": ("bart", "bert"),
    "marian": ("bart", "bert"),
    "nn": ("bert", "bart"),
    "opt": ("bart", "gpt2", "bert"),
    "phi": ("phi", "gpt2", "bert"),
    "qwen": ("qwen3", "phi", "bert"),
    "sam": ("sam2", "vit", "bert"),
    "sd3": ("mmdit", "unet", "bert"),
    "sd_unet": ("unet", "vae", "bert"),
    "siglip": ("clip", "vit", "bert"),
    "swin": ("swin", "vit", "bert"),
    "t5": ("t5", "bart", "bert"),
    "trocr": ("bart", "bert"),
    "vit": ("vit", "bert"),
    "wav2vec2_conformer": ("conformer", "bert"),
    "wav2vec2": ("bart", "bert"),
    "hubert": ("bart", "bert"),
    "whisper": ("bart", "bert"),
}
_DECODER_TYPES = ("phi", "gpt2", "bert")
_ENCODERS = ("bert", "roberta", "electra", "albert", "mpnet", "modernbert", "deberta_v2")


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


def model_types(arch: str) -> tuple[str, ...]:
    """Types that ONNX Runtime's optimizer may take an architecture for."""
    for prefix in sorted(_TYPES, key=len, reverse=True):
        if arch.startswith(prefix):
            return _TYPES[prefix]
    return ("bert",) if arch.startswith(_ENCODERS) else _DECODER_TYPES


def main() -> None:
    """Serves until standard input ends."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    matcher = MATCHERS[sys.argv[1]]
    # Libraries print; the answers have the real standard output to themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        task = json.loads(line)
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                answer = matcher(Path(task["path"]), task["arch"], task["sets"])
            except Exception as error:
                answer = Answer(problem=_brief(error))
        print(json.dumps(asdict(answer)), file=answers, flush=True)


def ours_inspect(path: Path, arch: str, sets: list[int]) -> Answer:
    """What `inspect` says."""
    import qfa_passes
    from qfa_passes.core.site import AttentionSite

    found = qfa_passes.inspect(path)
    refusals = tuple(entry.reason for entry in found if not isinstance(entry, AttentionSite))
    return Answer(fused=len(found) - len(refusals), refusals=refusals)


def ours_float(path: Path, arch: str, sets: list[int]) -> Answer:
    """What `optimize --format float` leaves, and how far it is from torch."""
    return _optimized(path, sets, "float")


def ours_int8(path: Path, arch: str, sets: list[int]) -> Answer:
    """What `optimize --format int8` leaves, and its error."""
    return _optimized(path, sets, "int8")


def _optimized(path: Path, sets: list[int], format_: str) -> Answer:
    import onnxruntime

    import qfa_passes
    from qfa_passes.api import count_fused
    from qfa_passes.core.outcome import SiteStatus

    result = qfa_passes.optimize(path, format=format_)
    reasons = tuple(
        site.reason for site in result.report.sites if site.status is not SiteStatus.FUSED
    )
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(qfa_passes.get_library_path()))
    answer = Answer(fused=count_fused(result.model), refusals=reasons)
    return _compared(result.model, path, sets, answer, options=options, quantized=format_ == "int8")


def ort_optimizer(path: Path, arch: str, sets: list[int]) -> Answer:
    """`onnxruntime.transformers.optimizer`, the best of several types of model, raw and preprocessed."""
    from onnxruntime.transformers import optimizer

    best = Answer()
    for model in _inputs(path):
        for model_type in model_types(arch):
            try:
                result = optimizer.optimize_model(
                    _copy(model), model_type=model_type, opt_level=0, use_gpu=False
                ).model
                answer = _compared(result, path, sets, Answer(fused=_count(result.graph)))
            except Exception as error:
                best = best if best.fused or best.problem else Answer(problem=_brief(error))
                continue
            best = _better(best, answer)
    return best


def onnxscript_fusion(path: Path, arch: str, sets: list[int]) -> Answer:
    """`onnxscript.rewriter.ort_fusions.fuse_xformers`, raw and preprocessed."""
    import onnx_ir
    from onnxscript.rewriter.ort_fusions._core import fuse_xformers

    best = Answer()
    for model in _inputs(path):
        try:
            fused, _ = fuse_xformers(onnx_ir.serde.deserialize_model(_copy(model)))
            result = onnx_ir.serde.serialize_model(fused)
            answer = _compared(result, path, sets, Answer(fused=_count(result.graph)))
        except Exception as error:
            best = best if best.fused or best.problem else Answer(problem=_brief(error))
            continue
        best = _better(best, answer)
    return best


MATCHERS = {
    "inspect": ours_inspect,
    "float": ours_float,
    "int8": ours_int8,
    "ort": ort_optimizer,
    "onnxscript": onnxscript_fusion,
}


def _better(a: Answer, b: Answer) -> Answer:
    """Right before wrong, then many before few."""
    return max(a, b, key=lambda answer: (bool(answer.fused) and not answer.wrong, answer.fused))


def _inputs(path: Path) -> list[onnx.ModelProto]:
    """The model as exported, and after ONNX Runtime's basic optimization with symbolic shapes."""
    import onnx
    import onnxruntime
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    models = [onnx.load(path)]
    with tempfile.TemporaryDirectory() as folder:
        simple = Path(folder) / "simple.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(simple)
        options.intra_op_num_threads = 1
        with contextlib.suppress(Exception):
            onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            models.append(onnx.load(simple))
    if len(models) == 2:
        with contextlib.suppress(Exception):
            shaped = SymbolicShapeInference.infer_shapes(_copy(models[1]), auto_merge=True)
            models[1] = shaped if shaped is not None else models[1]
    return models


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    other = type(model)()
    other.CopyFrom(model)
    return other


def _count(graph: onnx.GraphProto) -> int:
    """Attention operators of the contrib domain, those in branches included."""
    total = 0
    for node in graph.node:
        total += node.domain == "com.microsoft" and node.op_type in FUSED_OPS
        for attribute in node.attribute:
            total += sum(map(_count, (attribute.g, *attribute.graphs)))
    return total


def _compared(
    result: onnx.ModelProto,
    path: Path,
    sets: list[int],
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
    samples = [s for i, s in enumerate(load_samples(path.with_suffix(".npz"))) if i in sets]
    errors = []
    for sample in samples:
        feeds = {name: array for name, array in sample.inputs.items() if name in known}
        outputs = session.run(list(sample.outputs), feeds)
        errors.append(_error(sample, outputs, quantized))
    worst = max(errors, default=float("nan"))
    limit = INT8_AGREES if quantized else 10 * AGREES
    return Answer(answer.fused, bool(errors) and not worst <= limit, worst, answer.refusals)


INT8_AGREES = 2e-2
"""Largest mean squared error of an output, relative to its mean square, that eight bits through two layers may make."""


def _error(sample: Sample, outputs: list[Any], quantized: bool) -> float:
    import numpy as np

    worst = 0.0
    for expected, actual in zip(sample.outputs.values(), outputs, strict=True):
        if expected.shape != actual.shape:
            return float("inf")
        wanted, got = expected.astype(np.float64), actual.astype(np.float64)
        if wanted.size == 0:
            continue
        if np.isnan(got).any():
            return float("inf")
        if quantized:
            error = float(np.mean((got - wanted) ** 2) / max(np.mean(wanted**2), 1e-12))
        else:
            error = float(np.abs(got - wanted).max()) / max(1.0, float(wanted.std()))
        worst = max(worst, error)
    return worst


def _brief(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


if __name__ == "__main__":
    main()
