"""Other matchers: the transformers optimizer of ONNX Runtime, and onnxscript."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.match_task import Answer, Task, brief, compared

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
# The optimizer of ONNX Runtime wants to be told what kind of model it is. What is not named here is a decoder.
_TYPES = {
    "bert": "albert bert deberta distilbert electra hubert modernbert mpnet nn roberta vits wav2vec2",
    "bart": "bart detr m2m marian trocr whisper",
    "clip": "clip siglip",
    "conformer": "wav2vec2_conformer",
    "gpt2": "gpt opt",
    "gpt_neox": "gpt_neox",
    "mmdit": "dit sd3",
    "qwen3": "qwen",
    "sam2": "sam",
    "swin": "swin",
    "t5": "t5",
    "unet": "sd_unet",
    "vit": "beit dinov2 vit",
}
_DECODER_TYPE = "phi"
_SIZES = {"num_heads": 4, "hidden_size": 64}


def model_types(arch: str) -> list[str]:
    """Types that ONNX Runtime's optimizer may take an architecture for: its own, and the one that most models are."""
    prefixes = {prefix: kind for kind, names in _TYPES.items() for prefix in names.split()}
    fitting = [prefix for prefix in prefixes if arch.startswith(prefix)]
    own = prefixes[max(fitting, key=len)] if fitting else _DECODER_TYPE
    return list(dict.fromkeys((own, "bert")))


def ort_optimizer(task: Task) -> Answer:
    """`onnxruntime.transformers.optimizer`, the best of several types of model, raw and preprocessed."""
    from onnxruntime.transformers import optimizer

    best = Answer()
    # It finds the number of heads by itself in some graphs, and must be told in others.
    trials = itertools.product(_inputs(task.path), model_types(task.arch), (_SIZES, {}))
    for model, model_type, sizes in trials:
        if best.fused >= task.blocks and not best.wrong:
            break
        try:
            result = optimizer.optimize_model(
                _copy(model), model_type=model_type, opt_level=0, use_gpu=False, **sizes
            ).model
            answer = compared(result, task, Answer(fused=_count(result.graph)))
        except Exception as error:
            best = best if best.fused or best.problem else Answer(problem=brief(error))
            continue
        best = _better(best, answer)
    return best


def onnxscript_fusion(task: Task) -> Answer:
    """`onnxscript.rewriter.ort_fusions.fuse_xformers`, raw and preprocessed."""
    import onnx_ir
    from onnxscript.rewriter.ort_fusions._core import fuse_xformers

    best = Answer()
    for model in _inputs(task.path):
        if best.fused >= task.blocks and not best.wrong:
            break
        try:
            fused, _ = fuse_xformers(onnx_ir.serde.deserialize_model(_copy(model)))
            result = onnx_ir.serde.serialize_model(fused)
            answer = compared(result, task, Answer(fused=_count(result.graph)))
        except Exception as error:
            best = best if best.fused or best.problem else Answer(problem=brief(error))
            continue
        best = _better(best, answer)
    return best


def _better(a: Answer, b: Answer) -> Answer:
    """Right before wrong, then many before few."""
    return max(a, b, key=lambda answer: (bool(answer.fused) and not answer.wrong, answer.fused))


def _inputs(path: str) -> list[onnx.ModelProto]:
    """The model as exported, after ONNX Runtime's basic optimization, and that with symbolic shapes."""
    import onnx
    import onnxruntime
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    models = [onnx.load(path)]
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Exception):
        simple = Path(folder) / "simple.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(simple)
        options.intra_op_num_threads = 1
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        models.append(onnx.load(simple))
        shaped = SymbolicShapeInference.infer_shapes(_copy(models[1]), auto_merge=True)
        models += [] if shaped is None else [shaped]
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
