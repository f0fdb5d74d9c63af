"""Which keys an ai.onnx::Attention node lets a query see: its mask input, its attributes and its lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.core.site import Cache, Mask, MaskKind, MaskTerm
from qfa_passes.graph.dims import Dim
from qfa_passes.graph.shapes import Shape
from qfa_passes.match.bands import ScoreExtents
from qfa_passes.match.context import MatchContext, MatchFailure
from qfa_passes.match.operands import element_type
from qfa_passes.match.standard_inputs import number, optional_input

_PADS_MASKS: Final = 24
"""From this opset on keys beyond the last axis of a mask are hidden; before, that axis is T, or 1 for all keys."""


@dataclass(frozen=True, slots=True)
class StandardExtents:
    """Extents of the scores, and how many of their keys are new.

    Attributes:
        scores: (B, H, S, T), T with past keys.
        new_keys: Keys in K.
    """

    scores: Shape
    new_keys: Dim

    @property
    def matrix(self) -> ScoreExtents:
        """S and T."""
        return ScoreExtents(self.scores[2], self.scores[3])


def score_extents(
    context: MatchContext, node: gs.Node, cache: Cache | None, batch: Dim, heads: int
) -> StandardExtents:
    """Reads S and T from the shapes of Q, K and the past keys."""
    shapes = [context.shapes.shape(tensor) for tensor in node.inputs[:2]]
    queries, new = (shape[-2] if len(shape) == 4 else shape[1] for shape in shapes if shape)
    keys = new
    if cache is not None:
        past = context.shapes.shape(context.tensors[cache.past_key])
        assert past is not None
        keys = past[2] + new
    return StandardExtents((batch, Dim.of(heads), queries, keys), new)


def mask_terms(
    context: MatchContext, node: gs.Node, extents: StandardExtents
) -> tuple[MaskTerm, ...]:
    """The mask input as a term; raises MatchFailure if it does not fit the scores."""
    mask = optional_input(node, "attn_mask")
    if mask is None:
        return ()
    if mask.dtype is None:
        raise MatchFailure(f"the type of the mask '{mask.name}' is not known")
    shape, keys = context.shapes.shape(mask), extents.scores[3]
    short = False
    if not shape:
        known = "has no axes" if shape == () else "has a shape that is not known"
        raise MatchFailure(f"the mask '{mask.name}' of '{node.name}' {known}")
    if shape[-1] != keys and context.graph.opset >= _PADS_MASKS:
        if shape[-1].value is not None and keys.value is not None and shape[-1].value > keys.value:
            raise MatchFailure(f"the mask '{mask.name}' has more keys than '{node.name}'")
        short = True
    _check_extents(node, mask, extents.scores, (*shape[:-1], keys) if short else shape)
    if mask.dtype == np.bool_:
        return (MaskTerm(mask.name, MaskKind.KEEP, fewer_keys=short),)
    element_type(mask)
    return (MaskTerm(mask.name, MaskKind.BIAS, fewer_keys=short),)


def _check_extents(node: gs.Node, mask: gs.Tensor, scores: Shape, extents: Shape) -> None:
    """Refuses a mask that cannot be broadcast to the scores, as far as that can be told before a run."""
    if len(extents) > len(scores):
        raise MatchFailure(f"the mask '{mask.name}' of '{node.name}' has {len(extents)} axes")
    for own, other in zip(scores[::-1], extents[::-1], strict=False):
        if other != 1 and None not in (own.value, other.value) and own != other:
            raise MatchFailure(
                f"the mask '{mask.name}' of shape {list(extents)} does not fit the scores {list(scores)} of"
                f" '{node.name}'"
            )


def positions(
    node: gs.Node, extents: StandardExtents, lengths: gs.Tensor | None, cache: Cache | None
) -> Mask:
    """The mask that the attributes make, without the mask input.

    Query i stands at key i; behind the past keys if there are any; or so that the last query stands at the last of the
    first nonpad_kv_seqlen keys. The operator counts from the last key of all, which is the same place only if there
    are as many queries as new keys; elsewhere the bounds move by the difference.
    """
    left = _window(node, "left_window_size")
    right = _window(node, "right_window_size")
    if number(node, "is_causal", 0):
        right = 0
    if lengths is not None and lengths.dtype != np.int64:
        raise MatchFailure(f"'{lengths.name}' has type {lengths.dtype}, expected int64")
    kv_length = None if lengths is None else lengths.name
    if left is None and right is None:
        return Mask(kv_length=kv_length)
    at_end = cache is not None or lengths is not None
    if cache is not None:
        left, right = _from_the_end(node, left, right, extents)
    return Mask(
        causal=right == 0,
        queries_at_end=at_end,
        left_window=-1 if left is None else left,
        right_window=right or -1,
        kv_length=kv_length,
    )


def _window(node: gs.Node, name: str) -> int | None:
    size = int(number(node, name, -1))
    if size < -1:
        raise MatchFailure(f"{name} {size} of '{node.name}' is below -1")
    return None if size == -1 else size


def _from_the_end(
    node: gs.Node, left: int | None, right: int | None, extents: StandardExtents
) -> tuple[int | None, int | None]:
    shift = (extents.scores[2] - extents.new_keys).value
    if shift is None:
        raise MatchFailure(
            f"'{node.name}' has past keys, {extents.scores[2]} queries and {extents.new_keys} new keys, which are"
            " not known to be as many, so that it is not clear where the queries stand"
        )
    left = None if left is None else left - shift
    right = None if right is None else right + shift
    if min(left or 0, right or 0) < 0:
        raise MatchFailure(
            f"the queries of '{node.name}' stand {abs(shift)} keys {'behind' if shift > 0 else 'before'} the last"
            " ones, too far for its bounds"
        )
    return left, right
