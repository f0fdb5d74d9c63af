"""Runs the operator in ONNX Runtime on small seeded inputs and compares it with attention in float64."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper

from qfa_passes.core.opspec import DOMAIN, DOMAIN_VERSION, OP_TYPE, SCHEMA_VERSION
from qfa_passes.errors import QfaError
from qfa_passes.runtime.host import import_onnxruntime
from qfa_passes.runtime.library import get_library_path

BOUND: Final = 5e-4
"""NMSE that int8 attention keeps on unit-normal data (docs/operator.md)."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SelfTestCase:
    """One comparison.

    Attributes:
        name: What was run, in words.
        nmse: Normalized mean squared error; None if it did not run.
        problem: Why it failed; empty if it passed.
    """

    name: str
    nmse: float | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Shape:
    name: str
    heads: int
    kv_heads: int
    queries: int
    keys: int
    channels: int
    causal: bool
    dtype: type[np.generic]


_SHAPES: Final = (
    _Shape("prefill, grouped heads, causal", 4, 2, 96, 96, 64, True, np.float32),
    _Shape("decode, one query", 4, 2, 1, 200, 64, False, np.float32),
    _Shape("odd sizes", 3, 1, 17, 65, 40, False, np.float32),
    _Shape("float16", 2, 2, 33, 33, 32, True, np.float16),
)


def run_self_test() -> tuple[SelfTestCase, ...]:
    """Runs every case; failures are in the result, not raised."""
    return tuple(_run(shape, seed) for seed, shape in enumerate(_SHAPES))


def _run(shape: _Shape, seed: int) -> SelfTestCase:
    random = np.random.default_rng(seed)
    query = random.standard_normal((1, shape.heads, shape.queries, shape.channels))
    key, value = random.standard_normal((2, 1, shape.kv_heads, shape.keys, shape.channels))
    feeds = {
        name: array.astype(shape.dtype)
        for name, array in (("query", query), ("key", key), ("value", value))
    }
    try:
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.register_custom_ops_library(get_library_path())
        session = ort.InferenceSession(
            _model(shape).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        (output,) = session.run(None, feeds)
    except QfaError as error:
        return SelfTestCase(shape.name, None, error.what)
    except Exception as error:  # ONNX Runtime's exceptions share no other base class
        return SelfTestCase(shape.name, None, str(error))
    expected = _attention(*(feeds[name].astype(np.float64) for name in feeds), causal=shape.causal)
    nmse = float(np.sum((output - expected) ** 2) / np.sum(expected**2))
    problem = "" if nmse <= BOUND else f"NMSE {nmse:.2e} is above {BOUND:.0e}"
    return SelfTestCase(shape.name, nmse, problem)


def _model(shape: _Shape) -> ModelProto:
    element_type = helper.np_dtype_to_tensor_dtype(np.dtype(shape.dtype))
    node = helper.make_node(
        OP_TYPE,
        ["query", "key", "value"],
        ["output"],
        name="self_test",
        domain=DOMAIN,
        num_heads=shape.heads,
        kv_num_heads=shape.kv_heads,
        scale=1.0 / math.sqrt(shape.channels),
        is_causal=int(shape.causal),
        compute_format="int8",
        scale_mode="dynamic",
        rotate="none",
        schema_version=SCHEMA_VERSION,
    )
    values = [
        helper.make_tensor_value_info(name, element_type, [1, heads, length, shape.channels])
        for name, heads, length in (
            ("query", shape.heads, shape.queries),
            ("key", shape.kv_heads, shape.keys),
            ("value", shape.kv_heads, shape.keys),
        )
    ]
    output = helper.make_tensor_value_info("output", TensorProto.UNDEFINED, None)
    output.type.tensor_type.elem_type = element_type
    graph = helper.make_graph([node], "self_test", values, [output])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _attention(
    query: FloatArray, key: FloatArray, value: FloatArray, *, causal: bool
) -> FloatArray:
    """Plain attention: query (B, H, S, D), key and value (B, Hkv, T, D)."""
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat(group, axis=1), value.repeat(group, axis=1)
    scores = query @ key.swapaxes(-1, -2) / math.sqrt(query.shape[-1])
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=np.bool_), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result: FloatArray = weights / weights.sum(axis=-1, keepdims=True) @ value
    return result
