"""Q, K, V and the cache of an ai.onnx::Attention node, in its three-axis and four-axis layouts."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import onnx_graphsurgeon as gs

from qfa_passes.core.site import Cache, Operand
from qfa_passes.core.view import split_heads
from qfa_passes.graph.ir import producer
from qfa_passes.match.context import MatchContext, MatchFailure
from qfa_passes.match.quantized import read_qdq
from qfa_passes.match.views import HeadsView, read_operand

_INPUTS: Final = ("Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen")


def optional_input(node: gs.Node, name: str) -> gs.Tensor | None:
    """The value given for an input; None if it is left out."""
    position = _INPUTS.index(name)
    tensor = node.inputs[position] if position < len(node.inputs) else None
    return tensor if tensor is not None and tensor.name else None


def number(node: gs.Node, name: str, default: float) -> float:
    """A numeric attribute; raises MatchFailure if it is something else."""
    value = node.attrs.get(name, default)
    if not isinstance(value, (int, float)):
        raise MatchFailure(f"{name} of '{node.name}' is no number")
    return value


def read_inputs(
    context: MatchContext, node: gs.Node, *, cached: bool
) -> tuple[HeadsView | None, HeadsView | None, HeadsView | None]:
    """Q, K and V, each None if its layout is not understood; raises MatchFailure for ranks that do not go together.

    With a cache K and V are taken as they stand, but for Q/DQ pairs: what is above them, such as a scale, would be
    missing from the present keys and values.
    """
    ranks = {context.shapes.rank(tensor) for tensor in node.inputs[:3]}
    if ranks == {3}:
        heads = [_attribute(node, name) for name in ("q_num_heads", "kv_num_heads", "kv_num_heads")]
        query, key, value = (
            _flat(context, node, position, count) for position, count in enumerate(heads)
        )
        return query, key, value
    if ranks != {4}:
        raise MatchFailure(
            f"Q, K and V of '{node.name}' have ranks {sorted(map(str, ranks))}, expected 3 or 4 for all of them"
        )
    shapes = context.shapes
    query = read_operand(node, 0, shapes)
    if cached:
        return query, _plain(context, node, 1), _plain(context, node, 2)
    return query, read_operand(node, 1, shapes), read_operand(node, 2, shapes, scaled=False)


def read_cache(context: MatchContext, node: gs.Node) -> Cache | None:
    """The past and present keys and values; raises MatchFailure if they do not fit K and V."""
    past_key, past_value = (optional_input(node, name) for name in ("past_key", "past_value"))
    if past_key is None and past_value is None:
        return None
    if past_key is None or past_value is None:
        raise MatchFailure(f"'{node.name}' has only one of past_key and past_value")
    if optional_input(node, "nonpad_kv_seqlen") is not None:
        raise MatchFailure(f"'{node.name}' has past keys and nonpad_kv_seqlen at once")
    for tensor, new in ((past_key, node.inputs[1]), (past_value, node.inputs[2])):
        if context.shapes.rank(tensor) != 4:
            raise MatchFailure(f"'{tensor.name}' is not known to be (B, heads, rows, channels)")
        if tensor.dtype != new.dtype:
            raise MatchFailure(f"'{tensor.name}' and '{new.name}' have different element types")
    _check_past(context, node, past_key, past_value)
    present = [_read_output(context, node, position) for position in (1, 2)]
    return Cache(past_key.name, past_value.name, *present)


def _check_past(
    context: MatchContext, node: gs.Node, past_key: gs.Tensor, past_value: gs.Tensor
) -> None:
    """Refuses a cache that provably does not go in front of K and V."""
    keys, values = (context.shapes.shape(tensor) for tensor in (past_key, past_value))
    pairs = [] if keys is None or values is None else list(zip(keys[:3], values[:3], strict=True))
    for past, position in ((keys, 1), (values, 2)):
        new = context.shapes.shape(node.inputs[position])
        if past is not None and new is not None and len(new) == 4:
            pairs += [(past[axis], new[axis]) for axis in (0, 1, 3)]
    for one, other in pairs:
        if one != other and None not in (one.value, other.value):
            raise MatchFailure(
                f"the cache '{past_key.name}', '{past_value.name}' does not go in front of K and V of '{node.name}':"
                f" {one} against {other}"
            )


def _read_output(context: MatchContext, node: gs.Node, position: int) -> str | None:
    """Name of an output; None if nobody reads it."""
    output = node.outputs[position] if position < len(node.outputs) else None
    if output is None or not output.name:
        return None
    return output.name if output.outputs or output.name in context.outputs else None


def _attribute(node: gs.Node, name: str) -> int:
    heads = int(number(node, name, 0))
    if heads < 1:
        raise MatchFailure(f"'{node.name}' has three-axis inputs but no {name}")
    return heads


def _flat(context: MatchContext, node: gs.Node, position: int, heads: int) -> HeadsView | None:
    """(B, rows, heads * channels)."""
    tensor = node.inputs[position]
    shape = context.shapes.shape(tensor)
    assert shape is not None
    width = shape[2].value
    if width is None:
        return None
    if width % heads:
        raise MatchFailure(f"{width} channels of '{tensor.name}' are not {heads} heads of one size")
    channels = width // heads
    operand = replace(_quantized(node, position), views=split_heads(heads, channels))
    return HeadsView(operand, heads, 1, shape[0], channels, 1.0)


def _plain(context: MatchContext, node: gs.Node, position: int) -> HeadsView | None:
    """(B, heads, rows, channels) as it stands."""
    tensor = node.inputs[position]
    shape = context.shapes.shape(tensor)
    assert shape is not None
    heads, channels = shape[1].value, shape[3].value
    if heads is None or channels is None:
        return None
    return HeadsView(_quantized(node, position), heads, 1, shape[0], channels, 1.0)


def _quantized(node: gs.Node, position: int) -> Operand:
    """An input as an operand, above its Q/DQ pair if it has one."""
    last = producer(node.inputs[position])
    pair = None if last is None else read_qdq(last)
    if last is None or pair is None:
        return Operand(node.inputs[position].name, path=(node.name,))
    return Operand(pair.source.name, scale=pair.scale, path=(last.name, node.name))
