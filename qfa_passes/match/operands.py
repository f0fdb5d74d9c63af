"""Checks that Q, K and V fit together."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from qfa_passes.core.site import Operand
from qfa_passes.core.view import View, ViewOp
from qfa_passes.match.context import MatchContext, MatchFailure
from qfa_passes.match.element_types import type_code
from qfa_passes.match.views import HeadsView

_ELEMENT_TYPES: Final = {
    np.dtype(np.float32): onnx.TensorProto.FLOAT,
    np.dtype(np.float16): onnx.TensorProto.FLOAT16,
}
_WIDEST_FIRST: Final = (
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.FLOAT16,
)
_LARGEST_CHANNELS: Final = 1024


def score_factor(scale: float, query: HeadsView, key: HeadsView) -> float:
    """The factor on Q K^T, with what was multiplied into Q and K; raises MatchFailure if float32 cannot hold it."""
    factor = scale * query.factor * key.factor
    if not np.finfo(np.float32).tiny <= abs(factor) <= np.finfo(np.float32).max:
        raise MatchFailure(f"the scores are scaled by {factor:g}")
    return factor


def element_type(tensor: gs.Tensor) -> int:
    """The ONNX element type of a float32, float16 or bfloat16 value; raises MatchFailure for others."""
    if tensor.dtype == onnx.TensorProto.BFLOAT16:  # which numpy has no type for
        return int(onnx.TensorProto.BFLOAT16)
    try:
        return int(_ELEMENT_TYPES[np.dtype(tensor.dtype)])
    except (KeyError, TypeError):
        raise MatchFailure(
            f"'{tensor.name}' has type {tensor.dtype}, expected float32, float16 or bfloat16"
        ) from None


def as_one_type(context: MatchContext, *views: HeadsView | None) -> tuple[HeadsView | None, ...]:
    """The operands with those of a narrower float type widened, as where only the PV product runs in float32."""
    types = [None if view is None else _type_below(context, view.operand) for view in views]
    wide = next((code for code in _WIDEST_FIRST if code in types), None)
    return tuple(
        view
        if view is None or code == wide or code is None or wide is None
        else replace(view, operand=_widened(view.operand, wide))
        for view, code in zip(views, types, strict=True)
    )


def _type_below(context: MatchContext, operand: Operand) -> int | None:
    """The element type of an operand after its views."""
    for view in reversed(operand.views):
        if view.op is ViewOp.CAST:
            return view.numbers[0]
    return type_code(context.tensors[operand.tensor].dtype)


def _widened(operand: Operand, code: int) -> Operand:
    plain = tuple(view for view in operand.views if view.op is not ViewOp.CAST)
    return replace(operand, views=(*plain, View(ViewOp.CAST, (code,))))


def check_operands(
    context: MatchContext,
    query: HeadsView | None,
    key: HeadsView | None,
    value: HeadsView | None,
    *,
    grouped: bool = False,
) -> tuple[int, int]:
    """Returns (H, Hkv) or raises MatchFailure; ``grouped``: the product itself lets query heads share K and V."""
    for view, letter in ((query, "Q"), (key, "K"), (value, "V")):
        if view is None:
            raise MatchFailure(
                f"the layout of {letter} is not understood: no value above it is (B, heads, rows, channels) up to a"
                " permutation with known heads and channels"
            )
    assert query is not None and key is not None and value is not None
    heads, kv_heads = query.heads * query.repeat, key.heads
    if query.repeat != 1:
        raise MatchFailure("the heads of Q are repeated")
    if value.heads != kv_heads:
        raise MatchFailure(f"K has {kv_heads} heads and V has {value.heads}")
    if not (heads and kv_heads and query.channels and value.channels):
        raise MatchFailure("Q, K or V is empty")
    for view in (key, value):
        repeated = kv_heads * view.repeat
        if heads % repeated or not (grouped or repeated in (heads, 1)):
            raise MatchFailure(
                f"{heads} query heads do not share {kv_heads} key/value heads evenly"
            )
    if query.channels != key.channels:
        raise MatchFailure(f"Q has {query.channels} channels and K has {key.channels}")
    if max(query.channels, value.channels) > _LARGEST_CHANNELS:
        raise MatchFailure(f"more than {_LARGEST_CHANNELS} channels per head")
    for view, letter in ((key, "K"), (value, "V")):
        if view.batch != query.batch:
            raise MatchFailure(
                f"Q has batch {query.batch} and {letter} has batch {view.batch}, so that one may be"
                " broadcast over the other"
            )
    for view in (query, key, value):
        element_type(context.tensors[view.operand.tensor])
    if len({_type_below(context, view.operand) for view in (query, key, value)}) != 1:
        raise MatchFailure("Q, K and V have different element types")
    return heads, kv_heads
