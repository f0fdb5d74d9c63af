"""Softcapped scores: b * tanh(a * Q K^T), however the exporter split the factors."""

from __future__ import annotations

import math

import onnx_graphsurgeon as gs

from qfa_passes.graph.ir import is_op
from qfa_passes.match.context import MatchFailure


def is_bend(node: gs.Node) -> bool:
    """True for the node that bends scores."""
    return is_op(node, "Tanh")


def check_bend(node: gs.Node, *, masked: bool, bent: bool, shifted: bool) -> None:
    """Refuses a tanh over scores that already hold a mask, or that another one has bent, or that were shifted."""
    if masked:
        raise MatchFailure(
            f"node '{node.name}' caps the scores after a mask was added, so that masked keys keep a weight",
            "the cap belongs before the mask, as in ai.onnx::Attention",
        )
    if bent:
        raise MatchFailure(f"node '{node.name}' caps scores that are capped already")
    if shifted:
        raise MatchFailure(f"node '{node.name}' caps scores whose maximum was taken away")


def scale_and_cap(outer: float, inner: float | None) -> tuple[float, float]:
    """Scale and softcap c of outer * tanh(inner * s), which is c * tanh(scale * s / c); c is 0 without a tanh.

    Args:
        outer: Factor on the tanh, or on Q K^T itself if there is none.
        inner: Factor inside the tanh, or None.
    """
    if inner is None:
        return outer, 0.0
    if not math.isfinite(outer) or outer == 0:
        raise MatchFailure(f"the scores are capped at {outer:g}")
    return outer * inner, abs(outer)
