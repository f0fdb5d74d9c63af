"""The algebra of scores: from the softmax up to the QK^T product."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto

from qfa_passes.core.site import MaskKind, MaskTerm
from qfa_passes.graph.constants import scalar_value
from qfa_passes.graph.dims import Dim
from qfa_passes.graph.ir import producer
from qfa_passes.graph.shapes import Shape
from qfa_passes.match.context import MatchContext, MatchFailure
from qfa_passes.match.scalars import scaled_input
from qfa_passes.match.softcap import check_bend, is_bend, scale_and_cap

_DEPTH: Final = 24
MASKING: Final = -1e4
"""A constant at or below this, put in place of a score or added to it, means: do not attend."""

_FLOATS: Final = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


@dataclass(frozen=True, slots=True)
class Scores:
    """softmax input = factor * (Q K^T), or factor * tanh(bent * (Q K^T)), with mask terms added (in any order)."""

    product: gs.Node
    factor: float
    masks: tuple[MaskTerm, ...]
    nodes: tuple[gs.Node, ...]
    bent: float | None = None

    @property
    def scale_and_cap(self) -> tuple[float, float]:
        """Factor on Q K^T, and softcap (0: none); raises MatchFailure."""
        return scale_and_cap(self.factor, self.bent)


def read_scores(context: MatchContext, tensor: gs.Tensor) -> Scores:
    """Walks from the softmax input up to the QK^T product; raises MatchFailure with the first thing not understood."""
    return _read(context, tensor, 0)


def _read(context: MatchContext, tensor: gs.Tensor, depth: int) -> Scores:
    node = producer(tensor)
    if node is None:
        raise MatchFailure(f"the scores come from '{tensor.name}', which no node computes")
    if depth > _DEPTH:
        raise MatchFailure(f"more than {_DEPTH} steps between the softmax and the QK^T product")
    if node.domain:
        raise MatchFailure(
            f"operator {node.domain}::{node.op} (node '{node.name}') stands between QK^T and softmax"
        )
    context.only_consumer(tensor, "score matrix")
    if node.op == "MatMul":
        return Scores(node, 1.0, (), (node,))
    if node.op in ("Cast", "Identity"):
        check_float(node)
        inner = _read(context, node.inputs[0], depth + 1)
        return replace(inner, nodes=(node, *inner.nodes))
    if is_bend(node):
        inner = _read(context, node.inputs[0], depth + 1)
        check_bend(node, masked=bool(inner.masks), bent=inner.bent is not None)
        return replace(inner, factor=1.0, nodes=(node, *inner.nodes), bent=inner.factor)
    scaled = scaled_input(node, context.shapes)
    if scaled is not None:
        source, factor = scaled
        inner = _read(context, source, depth + 1)
        if inner.masks:
            raise MatchFailure(f"node '{node.name}' scales the scores after a mask was added")
        return replace(inner, factor=inner.factor * factor, nodes=(node, *inner.nodes))
    if node.op == "Add":
        return _read_add(context, node, depth)
    if node.op == "Where":
        return _read_where(context, node, depth)
    hints = {
        "Concat": "attention sinks are not supported by this release",
        "Reshape": "scores with merged batch and head axes are not supported by this release",
    }
    raise MatchFailure(
        f"operator {node.op} (node '{node.name}') between QK^T and softmax", hints.get(node.op, "")
    )


def _read_add(context: MatchContext, node: gs.Node, depth: int) -> Scores:
    found: list[tuple[Scores, gs.Tensor]] = []
    failures: list[MatchFailure] = []
    if node.inputs[0] is node.inputs[1]:
        raise MatchFailure(f"node '{node.name}' adds the scores to themselves")
    for score, bias in (node.inputs, node.inputs[::-1]):
        try:
            found.append((_read(context, score, depth + 1), bias))
        except MatchFailure as failure:
            failures.append(failure)
    if not found:
        raise max(failures, key=lambda failure: len(failure.hint))
    if len(found) == 2:
        raise MatchFailure(
            f"both operands of '{node.name}' are products; which one is QK^T is not clear"
        )
    inner, bias = found[0]
    check_mask(context, node, context.shapes.shape(inner.product.outputs[0]), bias)
    masks = (*inner.masks, MaskTerm(bias.name, MaskKind.BIAS))
    return replace(inner, masks=masks, nodes=(node, *inner.nodes))


def _read_where(context: MatchContext, node: gs.Node, depth: int) -> Scores:
    condition, yes, no = node.inputs
    for score, other, inverted in ((yes, no, False), (no, yes, True)):
        fill = scalar_value(other)
        if fill is None:
            continue
        if not fill <= MASKING:
            raise MatchFailure(
                f"node '{node.name}' puts {fill:g} in place of scores, which does not mask them"
            )
        inner = _read(context, score, depth + 1)
        check_mask(context, node, context.shapes.shape(inner.product.outputs[0]), condition)
        term = MaskTerm(condition.name, MaskKind.DROP if inverted else MaskKind.KEEP, fill)
        return replace(inner, masks=(*inner.masks, term), nodes=(node, *inner.nodes))
    raise MatchFailure(
        f"node '{node.name}' selects between two computed values, none of them a masking constant"
    )


def check_mask(context: MatchContext, node: gs.Node, scores: Shape | None, mask: gs.Tensor) -> None:
    """Refuses a mask that stretches the scores, as far as that can be told before a run."""
    extents, after = context.shapes.shape(mask), context.shapes.rank(node.outputs[0])
    if scores is None or extents is None or after != len(scores):
        raise MatchFailure(
            f"the mask '{mask.name}' changes the rank of the scores at node '{node.name}'"
        )
    for axis, (own, other) in enumerate(zip(scores[::-1], extents[::-1], strict=False)):
        # The last axis cannot be stretched: the product with V would not fit.
        stretched = own == 1 or (axis and own.value is None and other.value is not None)
        if other not in (own, Dim.of(1)) and (stretched or (own.value and other.value)):
            raise MatchFailure(
                f"the mask '{mask.name}' stretches the scores at node '{node.name}':"
                f" {list(extents)} against {list(scores)}"
            )


def check_float(node: gs.Node) -> None:
    """Refuses a cast of scores or weights to a type that is not a plain float."""
    if node.op == "Cast" and _type_code(node.attrs.get("to")) not in _FLOATS:
        raise MatchFailure(f"node '{node.name}' casts to a type that is no plain float")


def _type_code(target: object) -> int:
    if isinstance(target, int):
        return target
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(target)))  # type: ignore[call-overload]
