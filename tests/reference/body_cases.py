"""Sites with random inputs, what they should give, and two runtimes that know nothing of our library."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

from qfa_passes.quant.attention import Masking, Quantization, attention_float64, attention_int8
from tests.reference.attention_cases import unit_normal
from tests.reference.attention_models import Site

Array = npt.NDArray[Any]

LEVELS = [
    ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
]
ALL_ON = LEVELS[-1]


def qkv(
    *shape: int, dtype: npt.DTypeLike = np.float32, seed: int = 0, **more: npt.ArrayLike
) -> dict[str, Array]:
    """Returns inputs of a site for (B, H, Hkv, S, T, D, Dv), and more by name."""
    batch, heads, kv_heads, rows, keys, channels, v_channels = shape
    arrays = unit_normal((batch, heads, kv_heads, rows, keys, channels, v_channels), seed)
    names = ("query", "key", "value")
    inputs: dict[str, Array] = {
        name: x.astype(dtype) for name, x in zip(names, arrays, strict=True)
    }
    return inputs | {name: np.asarray(value) for name, value in more.items()}


def masking(site: Site) -> Masking:
    """Returns the site's masks in the terms of the definition."""
    return Masking(
        causal=site.is_causal,
        mask=site.inputs.get("attn_mask"),
        bias=site.inputs.get("attn_bias"),
        queries_at_end=bool(site.attributes.get("queries_at_end", 0)),
        left_window=site.attributes.get("left_window", -1),
        right_window=site.attributes.get("right_window", -1),
        kv_length=site.inputs.get("kv_length"),
    )


def joined(site: Site) -> tuple[Array, Array]:
    """Returns K and V with those of the past in front."""
    key, value = (
        np.concatenate([site.inputs[past], site.inputs[name]], axis=2)
        if past in site.inputs
        else site.inputs[name]
        for past, name in (("past_key", "key"), ("past_value", "value"))
    )
    return key, value


def defined(site: Site) -> Array:
    """Returns what the kernel is defined to compute."""
    if site.attributes.get("compute_format") == "float":
        return exact(site)
    names = ("q_scale", "k_scale", "v_scale", "k_mean")
    how = Quantization(
        **{name: site.inputs.get(name) for name in names},
        rotate=site.attributes.get("rotate") == "hadamard",
    )
    return attention_int8(
        site.inputs["query"],
        *joined(site),
        scale=site.scale,
        masking=masking(site),
        softcap=site.attributes.get("softcap", 0.0),
        sink=site.inputs.get("sink"),
        quantization=how,
    )


def exact(site: Site) -> Array:
    """Returns float64 attention."""
    return attention_float64(
        site.inputs["query"],
        *joined(site),
        scale=site.scale,
        masking=masking(site),
        softcap=site.attributes.get("softcap", 0.0),
        sink=site.inputs.get("sink"),
    )


def run_ort(model: ModelProto, feeds: dict[str, Array], level: Any = ALL_ON) -> list[Array]:
    """Runs a model in ONNX Runtime, without our library."""
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(x) for x in session.run(None, feeds)]


def run_reference(model: ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """Runs a model in ONNX's reference implementation."""
    return [np.asarray(x) for x in ReferenceEvaluator(model).run(None, feeds)]


def skip_if_unknown(opset: int) -> None:
    """Leaves a test out where ONNX Runtime is older than the version of ai.onnx."""
    version = tuple(map(int, ort.__version__.split(".")[:2]))
    if opset > 25 and version < (1, 25):
        pytest.skip(f"ONNX Runtime {ort.__version__} knows no opset {opset}")
