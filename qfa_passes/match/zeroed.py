"""Weights of masked keys set to zero after the softmax: Where(condition, 0, weights) with a mask of these scores."""

from __future__ import annotations

from typing import Final

import onnx_graphsurgeon as gs

from qfa_passes.core.site import MaskKind
from qfa_passes.graph.ir import is_op, producer
from qfa_passes.match.atoms import Axes, same_axes
from qfa_passes.match.context import MatchContext, MatchFailure
from qfa_passes.match.fills import uniform_value
from qfa_passes.match.scores import Scores

_HIDDEN: Final = -9000.0
"""A key with this score has a weight that float32 cannot tell from zero, next to any that a model computes."""


def zeroing(
    context: MatchContext, node: gs.Node, weights: gs.Tensor, axes: Axes, scores: Scores
) -> str | None:
    """The name of the condition of the mask that ``node`` applies once more; None if it is no such node.

    The weights of hidden keys are zero already, except in rows that see no key: there the node makes all of them zero,
    as the operator does for a score of -inf.

    Raises:
        MatchFailure: It sets weights to zero that no mask of the scores hides.
    """
    if not is_op(node, "Where"):
        return None
    condition, yes, no = node.inputs
    keeps = yes is weights
    if not keeps and no is not weights:
        return None
    if uniform_value(no if keeps else yes, context.shapes) != 0:
        return None
    wanted = _plain(condition, keeps)
    for mask in scores.masks:
        term = mask.term
        if term.kind is MaskKind.BIAS or term.fill > _HIDDEN:
            continue
        same = _plain(context.tensors[term.tensor], term.kind is MaskKind.KEEP) == wanted
        if same and same_axes(mask.axes, axes):
            return term.tensor
    raise MatchFailure(
        f"node '{node.name}' between softmax and PV sets weights to zero by '{condition.name}', which is no mask of the"
        " scores",
        "a mask belongs before the softmax",
    )


def _plain(condition: gs.Tensor, keeps: bool) -> tuple[str, bool]:
    """The value behind a Not, and whether true keeps a key."""
    node = producer(condition)
    while is_op(node, "Not", "Identity"):
        keeps = keeps if node.op == "Identity" else not keeps
        condition = node.inputs[0]
        node = producer(condition)
    return condition.name, keeps
