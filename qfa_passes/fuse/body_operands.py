"""The part of the function body that makes Q, K and V: one layout, past keys in front, quantized and back."""

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from qfa_passes.core.formats import AttentionFormat, Rotation, ScaleMode
from qfa_passes.errors import UnsupportedModelError
from qfa_passes.fuse.body_features import BodyFeatures
from qfa_passes.fuse.body_writer import BodyWriter
from qfa_passes.quant import hadamard
from qfa_passes.quant.int8 import CODE_MAX, SMALLEST_SCALE


@dataclass(frozen=True, slots=True)
class Operands:
    """Names of Q (B, H, S, D), K (B, Hkv, T, D) and V (B, Hkv, T, Dv) in float32."""

    query: str
    key: str
    value: str


def write_operands(w: BodyWriter, features: BodyFeatures) -> Operands:
    """Writes Q, K and V in one layout, past keys and values in front, and the present ones."""
    query = _write_heads(w, features, "query", "num_heads")
    key = _write_heads(w, features, "key", "kv_num_heads")
    value = _write_heads(w, features, "value", "kv_num_heads")
    if "past_key" in features.inputs:
        key = w.op("Concat", w.as_float("past_key"), key, axis=2)
        value = w.op("Concat", w.as_float("past_value"), value, axis=2)
    if features.presents:
        w.op("CastLike", key, "key", output="present_key")
        w.op("CastLike", value, "value", output="present_value")
    return Operands(query, key, value)


def _write_heads(w: BodyWriter, features: BodyFeatures, name: str, heads: str) -> str:
    """Writes an operand as (B, heads, rows, channels).

    A body cannot branch on a rank, so (B, rows, heads * channels) is split and transposed, and four
    axes pass the same nodes as (B, 1, heads, rows * channels), where nothing moves.
    """
    x = w.as_float(name)
    if not features.any_rank:
        return x
    count, one = w.integer_attribute(heads), w.constant([1], np.int64)
    batch, rows, last = w.extent(x, 0, 1), w.extent(x, -2, -1), w.extent(x, -1)
    split = w.op("Div", last, count)
    four = has_four_axes(w, name)
    outer = w.op("Where", four, one, rows)
    inner = w.op("Where", four, w.op("Mul", rows, last), split)
    turned = w.op("Transpose", w.shaped(x, batch, outer, count, inner), perm=[0, 2, 1, 3])
    return w.shaped(turned, batch, count, rows, w.op("Where", four, last, split))


def has_four_axes(w: BodyWriter, x: str) -> str:
    """Writes a flag, as a vector of one."""
    return w.op("Equal", w.extent(w.extent(x, 0), 0), w.constant([4], np.int64))


def write_quantized(w: BodyWriter, features: BodyFeatures, given: Operands) -> Operands:
    """Writes Q, K and V after their round trip through int8, if any; Q carries the factor of the scores."""
    query, key, value = given.query, given.key, given.value
    factor = w.float_attribute("scale")
    if features.compute is AttentionFormat.FLOAT:
        spoiled = w.op("Add", query, _write_spoil(w, query))
        keys = w.op("Add", key, _write_spoil(w, key))
        return Operands(
            w.op("Mul", spoiled, factor),
            *_write_spoiled_keys(w, keys, value, _write_spoil(w, value)),
        )
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
    return Operands(
        w.op("Mul", w.op("Add", q.values, q.spoil), factor),
        *_write_spoiled_keys(w, w.op("Add", k.values, k.spoil), v.values, v.spoil),
    )


def _write_spoiled_keys(w: BodyWriter, key: str, value: str, spoil: str) -> tuple[str, str]:
    """Writes K and V so that a spoiled row of V does not meet the zero weights of masked keys.

    0 * NaN is NaN. So the row of V is emptied, and its key is spoiled instead: scores of masked keys
    are replaced, scores of seen keys become NaN.
    """
    clean = w.op("Where", w.op("IsNaN", spoil), w.constant(0), value)
    # Where T is 0, ONNX Runtime's reductions keep the extent of the reduced axis; Reshape says what
    # it must be.
    column = w.op("Concat", w.extent(value, 0, 3), w.constant([1], np.int64), axis=0)
    return w.op("Add", key, w.op("Reshape", spoil, column)), clean


def _write_spoil(w: BodyWriter, x: str) -> str:
    """Writes NaN for rows that hold NaN or an infinity, else 0."""
    zeros = w.op("Mul", x, w.constant(0))
    return w.op("ReduceSum", zeros, w.constant([-1], np.int64), keepdims=1)


@dataclass(frozen=True, slots=True)
class _RoundTrip:
    """Names of a quantized tensor and of its spoil."""

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
    return _RoundTrip(w.op("Mul", codes, step), _write_spoil(w, x))
