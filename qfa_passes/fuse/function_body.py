"""The function body of `ai.qfa::QuantFlashAttention`: its mathematics in standard operators.

A model that carries it loads in runtimes that lack our library. Q, K and V are quantized and
dequantized as the kernel does it; softmax and P V stay in float32. `quant/attention.py` states the
mathematics, docs/operator.md the contract. Nothing here is a DequantizeLinear: optimizers of
runtimes move those, and some move them wrongly.
"""

from typing import Final

import numpy as np
from onnx import FunctionProto, helper

from qfa_passes.core import opspec
from qfa_passes.core.formats import AttentionFormat
from qfa_passes.errors import UnsupportedModelError
from qfa_passes.fuse.body_features import BodyFeatures
from qfa_passes.fuse.body_operands import has_four_axes, write_operands, write_quantized
from qfa_passes.fuse.body_softmax import Extents, write_softmax
from qfa_passes.fuse.body_writer import BodyWriter

OPSETS: Final = range(15, 27)
"""Versions of ai.onnx for a body: 15 brought CastLike, and 26 is the last that ONNX Runtime loads."""

_DESCRIPTIONS: Final = {
    AttentionFormat.INT8: "INT8 attention, simulated with standard operators",
    AttentionFormat.FLOAT: "attention in float32, with standard operators",
}


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
        features.output_names(),
        writer.nodes,
        [helper.make_opsetid("", features.opset)],
        attributes=[item.name for item in opspec.ATTRIBUTES if item.default is None],
        attribute_protos=[
            helper.make_attribute(item.name, item.default)
            for item in opspec.ATTRIBUTES
            if item.default is not None
        ],
        doc_string=_DESCRIPTIONS[features.compute],
    )


def _write_attention(w: BodyWriter, features: BodyFeatures) -> None:
    """Writes the whole computation."""
    given = write_operands(w, features)
    taken = write_quantized(w, features, given)
    kv_heads, heads = w.integer_attribute("kv_num_heads"), w.integer_attribute("num_heads")
    extents = Extents(
        w.extent(given.query, 0, 1), heads, w.extent(given.query, 2, 3), w.extent(given.key, 2, 3)
    )
    stacked = w.op("Mul", w.op("Div", heads, kv_heads), extents.rows)

    # The G heads that share keys are stacked along the rows, so that K and V need not be repeated.
    grouped = w.shaped(
        taken.query, extents.batch, kv_heads, stacked, w.extent(given.query, 3, 4)
    )  # (B, Hkv, G*S, D)
    keys = w.op("Transpose", taken.key, perm=[0, 1, 3, 2])  # (B, Hkv, D, T)
    products = w.op("MatMul", grouped, keys)
    scores = w.shaped(products, extents.batch, heads, extents.rows, extents.keys)
    weights = write_softmax(w, features, scores, extents)

    stacked_weights = w.shaped(weights, extents.batch, kv_heads, stacked, extents.keys)
    attended = w.op("MatMul", stacked_weights, taken.value)  # (B, Hkv, G*S, Dv)
    channels = w.extent(given.value, 3, 4)
    output = w.shaped(attended, extents.batch, heads, extents.rows, channels)
    if features.any_rank:
        output = _write_output_layout(w, output, extents, channels)
    w.op("CastLike", output, "query", output="output")


def _write_output_layout(w: BodyWriter, output: str, extents: Extents, channels: str) -> str:
    """Writes (B, H, S, Dv) with as many axes as query has; the inverse of what its heads went through."""
    one = w.constant([1], np.int64)
    four = has_four_axes(w, "query")
    outer = w.op("Where", four, one, extents.rows)
    inner = w.op("Where", four, w.op("Mul", extents.rows, channels), channels)
    merged = w.op("Where", four, channels, w.op("Mul", extents.heads, channels))
    apart = w.shaped(output, extents.batch, extents.heads, outer, inner)
    turned = w.op("Transpose", apart, perm=[0, 2, 1, 3])
    return w.shaped(turned, w.extent("query", 0, -1), merged)
