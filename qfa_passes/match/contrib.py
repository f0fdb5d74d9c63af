"""Attention operators of ``com.microsoft``: those still there after normalization are refused, each with its reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn

import onnx_graphsurgeon as gs

from qfa_passes.graph.contrib.grouped import read_grouped
from qfa_passes.graph.contrib.merged import read_merged
from qfa_passes.graph.contrib.multi_head import read_multi_head
from qfa_passes.graph.contrib.reading import DOMAIN, Unsupported
from qfa_passes.graph.shapes import ShapeMap
from qfa_passes.match.context import MatchContext, MatchFailure

_READERS: Final[dict[str, Callable[[gs.Node, ShapeMap], Any]]] = {
    "MultiHeadAttention": read_multi_head,
    "Attention": read_merged,
    "GroupQueryAttention": read_grouped,
}

_UNWRITTEN: Final = {
    "QAttention": "its projection of Q, K and V is quantized",
    "QOrderedAttention": "its data is quantized in an ordered layout",
    "QOrderedLongformerAttention": "its data is quantized in an ordered layout",
    "DecoderAttention": "it switches between self and cross attention at run time",
    "DecoderMaskedSelfAttention": "its cache is reordered for one query at a time",
    "DecoderMaskedMultiHeadAttention": "its cache is reordered for one query at a time",
    "PackedAttention": "its batch is packed without padding",
    "PackedMultiHeadAttention": "its batch is packed without padding",
    "PagedAttention": "its cache is a table of pages",
    "SparsePagedAttention": "its cache is a table of pages",
    "SparseAttention": "it sees blocks of keys by a table",
    "DynamicSparseAttention": "it sees blocks of keys by a table",
    "LongformerAttention": "it is local around some global tokens",
    "DisentangledAttention_TRT": "it scores positions apart from contents",
    "LinearAttention": "it has no softmax",
}

_INTEGER_HINT: Final = "quantize to Q/DQ format (QuantFormat.QDQ), or start from the float model"


def is_candidate(node: gs.Node) -> bool:
    """Any attention of ``com.microsoft``, and a softmax on integers between two products."""
    if node.domain != DOMAIN:
        return False
    return node.op in _READERS or node.op in _UNWRITTEN or _is_integer_softmax(node)


def _is_integer_softmax(node: gs.Node) -> bool:
    """True for a QLinearSoftmax whose weights an integer product reads."""
    return node.op == "QLinearSoftmax" and any(
        reader.op == "QLinearMatMul" for tensor in node.outputs for reader in tensor.outputs
    )


def refuse_contrib(context: MatchContext, node: gs.Node) -> NoReturn:
    """Raises MatchFailure with what stands in the way."""
    if _is_integer_softmax(node):
        raise MatchFailure(
            f"the scores and weights of '{node.name}' are integers ({DOMAIN}::{node.op} before QLinearMatMul)",
            _INTEGER_HINT,
        )
    if node.op in _UNWRITTEN:
        raise MatchFailure(
            f"{DOMAIN}::{node.op} is not supported: {_UNWRITTEN[node.op]}",
            "start from the model before it was optimized or quantized",
        )
    try:
        _READERS[node.op](node, context.shapes)
    except Unsupported as problem:
        raise MatchFailure(
            problem.reason, problem.hint or "start from the model before it was optimized"
        ) from None
    raise MatchFailure(f"{DOMAIN}::{node.op} '{node.name}' is left as it is")
