"""The part of the function body between scores and weights: softcap, masks, biases, sink, softmax."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from qfa_passes.fuse.body_features import BodyFeatures
from qfa_passes.fuse.body_writer import BodyWriter
from qfa_passes.quant.masking import BIAS_LIMIT, LOWEST_BIAS

LOWEST: Final = float(np.finfo(np.float32).min)
"""Score of a masked key. Unlike -inf it keeps Softmax free of NaN in rows that see nothing."""


@dataclass(frozen=True, slots=True)
class Extents:
    """Names of vectors of one: B, H, S and T."""

    batch: str
    heads: str
    rows: str
    keys: str


def write_softmax(w: BodyWriter, features: BodyFeatures, scores: str, extents: Extents) -> str:
    """Writes the weights (B, H, S, T) of scaled scores; keys that are not seen get zeros."""
    if features.softcap:
        scores = _write_softcap(w, scores)
    visible = _write_places(w, features, extents)
    if "attn_mask" in features.inputs:
        visible.append("attn_mask")
    if "attn_bias" in features.inputs:
        bias = w.as_float("attn_bias")
        limit = float(BIAS_LIMIT)  # keeps the lowest float32 apart from LOWEST, as seen and masked
        clamped = w.op("Clip", bias, w.constant(-limit), w.constant(limit))
        scores = w.op("Add", scores, clamped)
        hidden = w.op("IsInf", bias, detect_positive=0, detect_negative=1)
        visible.append(w.op("Not", hidden))
    if not visible:
        return _write_weights(w, features, scores, extents)
    seen = w.all_of(visible)
    selected = w.op("Where", seen, scores, w.constant(LOWEST))
    return w.op("Where", seen, _write_weights(w, features, selected, extents), w.constant(0))


def _write_weights(w: BodyWriter, features: BodyFeatures, scores: str, extents: Extents) -> str:
    """Writes the softmax, in which a sink is one more column that goes again."""
    if "sink" not in features.inputs:
        return w.op("Softmax", scores, axis=-1)
    given = w.op("Reshape", w.as_float("sink"), w.constant([1, -1, 1, 1], np.int64))
    none = w.op("LessOrEqual", given, w.constant(float(LOWEST_BIAS)))
    logit = w.op("Where", none, w.constant(-np.inf), given)
    one = w.constant([1], np.int64)
    shape = w.op("Concat", extents.batch, extents.heads, extents.rows, one, axis=0)
    weights = w.op(
        "Softmax", w.op("Concat", scores, w.op("Expand", logit, shape), axis=-1), axis=-1
    )
    return w.op(
        "Slice", weights, w.constant([0], np.int64), extents.keys, w.constant([3], np.int64)
    )


def _write_softcap(w: BodyWriter, scores: str) -> str:
    """Writes c * tanh(s / c), or s where c is 0; NaN stays NaN in runtimes whose Tanh clamps it."""
    cap = w.float_attribute("softcap")
    capped = w.op("Greater", cap, w.constant(0))
    divisor = w.op("Where", capped, cap, w.constant(1))
    bent = w.op("Mul", divisor, w.op("Tanh", w.op("Div", scores, divisor)))
    kept = w.op("Or", w.op("Not", capped), w.op("IsNaN", scores))
    return w.op("Where", kept, scores, bent)


def _write_places(w: BodyWriter, features: BodyFeatures, extents: Extents) -> list[str]:
    """Writes flags, broadcastable to (B, H, S, T), of what each attribute and the lengths let a query see."""
    lengths = "kv_length" in features.inputs
    if not (features.causal or features.windows or lengths):
        return []
    zero, one = w.constant(0, np.int64), w.constant(1, np.int64)
    keys = w.op("Range", zero, w.op("Squeeze", extents.keys), one)
    length = extents.keys
    visible = []
    if lengths:
        clamped = w.op("Max", w.op("Min", "kv_length", extents.keys), w.constant([0], np.int64))
        length = w.op("Reshape", clamped, w.constant([-1, 1, 1, 1], np.int64))
        visible.append(w.op("Less", keys, length))
    if not (features.causal or features.windows):
        return visible
    rows = w.op("Range", zero, w.op("Squeeze", extents.rows), one)
    place = w.unsqueeze(rows, 1)
    if features.queries_at_end:
        shift = w.op(
            "Mul", w.integer_attribute("queries_at_end"), w.op("Sub", length, extents.rows)
        )
        place = w.op("Add", place, shift)
    if features.causal:
        free = w.op("Equal", w.integer_attribute("is_causal"), zero)
        visible.append(w.op("Or", free, w.op("LessOrEqual", keys, place)))
    if features.windows:
        for name, edge, inside in (
            ("left_window", "Sub", "GreaterOrEqual"),
            ("right_window", "Add", "LessOrEqual"),
        ):
            size = w.integer_attribute(name)
            reached = w.op(inside, keys, w.op(edge, place, size))
            visible.append(w.op("Or", w.op("Less", size, zero), reached))
    return visible
