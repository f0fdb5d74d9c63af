"""The function body of `ai.qfa::QuantFlashAttention`: its mathematics in standard operators.

A model that carries it loads in runtimes that lack our library. Q, K and V are quantized and
dequantized as the kernel does it; softmax and P V stay in float32. `quant/attention.py` states the
mathematics, docs/operator.md the contract. Nothing here is a DequantizeLinear: optimizers of
runtimes move those, and some move them wrongly.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from onnx import FunctionProto, TensorProto, helper

from qfa_passes.core import opspec
from qfa_passes.core.formats import Rotation, ScaleMode
from qfa_passes.errors import UnsupportedModelError
from qfa_passes.fuse.body_features import BodyFeatures
from qfa_passes.fuse.body_writer import BodyWriter
from qfa_passes.quant import hadamard
from qfa_passes.quant.attention import BIAS_LIMIT
from qfa_passes.quant.int8 import CODE_MAX, SMALLEST_SCALE

OPSETS: Final = range(15, 26)
"""Versions of ai.onnx that a body can be written in; 15 brought CastLike."""

LOWEST: Final = float(np.finfo(np.float32).min)
"""Score of a masked key. Unlike -inf it keeps Softmax free of NaN in rows that see nothing."""


def function_body(features: BodyFeatures) -> FunctionProto:
    """Returns the body that serves every node that ``features`` sums up.

    Raises:
        UnsupportedModelError: The opset is out of range, or the rotation has no single or no
            divisible channel count.
    """
    if features.opset not in OPSETS:
        raise UnsupportedModelError(
            f"no function body can be written for ai.onnx opset {features.opset}",
            why=f"the body is valid for opsets {OPSETS[0]} to {OPSETS[-1]}",
            hint="convert the model to one of these opsets",
        )
    writer = BodyWriter(features.opset)
    _write_attention(writer, features)
    return helper.make_function(
        opspec.DOMAIN,
        opspec.OP_TYPE,
        features.input_names(),
        [opspec.OUTPUTS[0].name],
        writer.nodes,
        [helper.make_opsetid("", features.opset)],
        attributes=[item.name for item in opspec.ATTRIBUTES if item.default is None],
        attribute_protos=[
            helper.make_attribute(item.name, item.default)
            for item in opspec.ATTRIBUTES
            if item.default is not None
        ],
        doc_string="INT8 attention, simulated with standard operators",
    )


def _write_attention(w: BodyWriter, features: BodyFeatures) -> None:
    """Writes the whole computation."""
    query, key, value = _write_operands(w, features)
    batch_heads_rows = w.extent("query", 0, 3)
    kv_heads = w.integer_attribute("kv_num_heads")
    group = w.op("Div", w.integer_attribute("num_heads"), kv_heads)
    stacked = w.op("Mul", group, w.extent("query", 2, 3))

    # The G heads that share keys are stacked along the rows, so that K and V need not be repeated.
    q_shape = w.op(
        "Concat", w.extent("query", 0, 1), kv_heads, stacked, w.extent("query", 3, 4), axis=0
    )
    grouped = w.op("Reshape", query, q_shape)  # (B, Hkv, G*S, D)
    keys = w.op("Transpose", key, perm=[0, 1, 3, 2])  # (B, Hkv, D, T)
    products = w.op("MatMul", grouped, keys)
    score_shape = w.op("Concat", batch_heads_rows, w.extent("key", 2, 3), axis=0)
    weights = _write_softmax(w, features, w.op("Reshape", products, score_shape))

    p_shape = w.op(
        "Concat", w.extent("query", 0, 1), kv_heads, stacked, w.extent("key", 2, 3), axis=0
    )
    attended = w.op("MatMul", w.op("Reshape", weights, p_shape), value)  # (B, Hkv, G*S, Dv)
    output_shape = w.op("Concat", batch_heads_rows, w.extent("value", 3, 4), axis=0)
    w.op("CastLike", w.op("Reshape", attended, output_shape), "query", output="output")


def _write_operands(w: BodyWriter, features: BodyFeatures) -> tuple[str, str, str]:
    """Writes Q, K and V after their round trip through int8; Q carries the factor of the scores."""
    query, key, value = (
        w.op("Cast", name, to=TensorProto.FLOAT) for name in ("query", "key", "value")
    )
    factor = w.float_attribute("scale")
    if "k_mean" in features.inputs:
        key = w.op("Sub", key, w.unsqueeze("k_mean", 1))
    if features.rotate is Rotation.HADAMARD:
        if features.channels is None:
            raise UnsupportedModelError(
                "the Hadamard rotation needs the same number of query channels in every attention",
                why="one function body serves the whole model and holds one matrix",
                hint="use rotate=none for this model",
            )
        matrix = hadamard.matrix(features.channels)
        rotation = w.op("Cast", w.constant(matrix, np.int8), to=TensorProto.FLOAT)
        query, key = w.op("MatMul", query, rotation), w.op("MatMul", key, rotation)
        factor = w.op("Div", factor, w.constant(hadamard.block_length(features.channels)))

    static = features.scale_mode is ScaleMode.STATIC
    q, k, v = (
        _write_round_trip(w, x, f"{letter}_scale" if static else None)
        for letter, x in (("q", query), ("k", key), ("v", value))
    )
    # A spoiled row of V must not meet the zero weights of queries that cannot see it (0 * NaN is
    # NaN). So the row is emptied, and its key is spoiled instead: scores of masked keys are
    # replaced, scores of seen keys become NaN.
    clean = w.op("Where", w.op("IsNaN", v.spoil), w.constant(0), v.values)
    # Where T is 0, ONNX Runtime's reductions keep the extent of the reduced axis; Reshape says what
    # it must be.
    column = w.op("Concat", w.extent("value", 0, 3), w.constant([1], np.int64), axis=0)
    v_spoil = w.op("Reshape", v.spoil, column)
    return (
        w.op("Mul", w.op("Add", q.values, q.spoil), factor),
        w.op("Add", k.values, w.op("Add", k.spoil, v_spoil)),
        clean,
    )


@dataclass(frozen=True, slots=True)
class _RoundTrip:
    """Names of a quantized tensor and of its spoil: NaN for rows with NaN or Inf, else 0."""

    values: str
    spoil: str


def _write_round_trip(w: BodyWriter, x: str, static_scale: str | None) -> _RoundTrip:
    """Writes ``x`` quantized and dequantized, by row or with the given scales."""
    limit = w.constant(CODE_MAX)
    if static_scale is None:
        absmax = w.reduce_max(w.op("Abs", x))
        floored = w.op("Max", absmax, w.constant(CODE_MAX * SMALLEST_SCALE))
        spanned = w.op("Where", w.op("Equal", absmax, w.constant(0)), limit, floored)
        step = w.op("Div", spanned, limit)
        codes = w.op("Round", w.op("Mul", x, w.op("Div", limit, spanned)))
    else:
        step = w.op("Reshape", static_scale, w.constant([-1, 1, 1], np.int64))
        rounded = w.op("Round", w.op("Div", x, step))
        codes = w.op("Clip", rounded, w.constant(-CODE_MAX), limit)
    zeros = w.op("Mul", x, w.constant(0))
    spoil = w.op("ReduceSum", zeros, w.constant([-1], np.int64), keepdims=1)
    return _RoundTrip(w.op("Mul", codes, step), spoil)


def _write_softmax(w: BodyWriter, features: BodyFeatures, scores: str) -> str:
    """Writes the weights (B, H, S, T) of scaled scores; keys that are not seen get zeros."""
    visible = []
    if features.causal:
        visible.append(_write_causal(w))
    if "attn_mask" in features.inputs:
        visible.append("attn_mask")
    if "attn_bias" in features.inputs:
        bias = w.op("Cast", "attn_bias", to=TensorProto.FLOAT)
        limit = float(BIAS_LIMIT)  # keeps the lowest float32 apart from LOWEST, as seen and masked
        clamped = w.op("Clip", bias, w.constant(-limit), w.constant(limit))
        scores = w.op("Add", scores, clamped)
        hidden = w.op("IsInf", bias, detect_positive=0, detect_negative=1)
        visible.append(w.op("Not", hidden))
    if not visible:
        return w.op("Softmax", scores, axis=-1)
    seen = visible[0]
    for other in visible[1:]:
        seen = w.op("And", seen, other)
    selected = w.op("Where", seen, scores, w.constant(LOWEST))
    return w.op("Where", seen, w.op("Softmax", selected, axis=-1), w.constant(0))


def _write_causal(w: BodyWriter) -> str:
    """Writes flags (S, T): true where query i may see key j; all true unless is_causal is set."""
    zero, one = w.constant(0, np.int64), w.constant(1, np.int64)
    rows, columns = (
        w.op("Range", zero, w.op("Squeeze", w.extent(name, 2, 3)), one) for name in ("query", "key")
    )
    ordered = w.op("LessOrEqual", w.unsqueeze(columns, 0), w.unsqueeze(rows, 1))
    free = w.op("Equal", w.integer_attribute("is_causal"), w.constant(0, np.int64))
    return w.op("Or", free, ordered)
