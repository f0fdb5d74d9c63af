"""The algebra of scores: from the softmax up to the QK^T product."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import onnx_graphsurgeon as gs

from qfa_passes.core.site import MaskKind, MaskTerm
from qfa_passes.graph.dims import Dim
from qfa_passes.graph.ir import is_op, producer
from qfa_passes.graph.shapes import Shape
from qfa_passes.match.atoms import RESHAPING, Axes, Axis, flat, through, whole_axes
from qfa_passes.match.bounds import lowest_value
from qfa_passes.match.context import MatchContext, MatchFailure
from qfa_passes.match.element_types import FLOATS, type_code
from qfa_passes.match.fills import uniform_value
from qfa_passes.match.placing import PlacedMask
from qfa_passes.match.quantized import ROUNDED_SCORES, rounds_scores
from qfa_passes.match.row_shift import shifted_input
from qfa_passes.match.scalars import scaled_input
from qfa_passes.match.softcap import check_bend, is_bend, scale_and_cap
from qfa_passes.match.views import may_be

_DEPTH: Final = 24
MASKING: Final = -1e3
"""A constant at or below this, put in place of a score, means: do not attend."""

_NO_MASK: Final = -30.0
"""A bias that is never below this says where attention prefers to look, and hides nothing."""


@dataclass(frozen=True, slots=True)
class Scores:
    """softmax input = factor * (Q K^T), or factor * tanh(bent * (Q K^T)), with masks added.

    Attributes:
        product: The node of Q K^T.
        factor: On the scores, or on the tanh.
        masks: In the order of the nodes that apply them.
        nodes: From the softmax up to the product.
        shape: Shape of Q K^T.
        axes: What the axes in front of the softmax are, in atoms of those of Q K^T.
        bent: Factor inside the tanh; None: there is none.
        notes: What was undone on the way.
        shifts: Axes along which the maximum was taken away: no weight changes if these are the keys.
    """

    product: gs.Node
    factor: float
    masks: tuple[PlacedMask, ...]
    nodes: tuple[gs.Node, ...]
    shape: Shape
    axes: Axes
    bent: float | None = None
    notes: tuple[str, ...] = ()
    shifts: tuple[Axis, ...] = ()

    @property
    def scale_and_cap(self) -> tuple[float, float]:
        """Factor on Q K^T, and softcap (0: none); raises MatchFailure."""
        return scale_and_cap(self.factor, self.bent)

    @property
    def biases(self) -> frozenset[str]:
        """Names of the values that are added."""
        return frozenset(m.term.tensor for m in self.masks if m.term.kind is MaskKind.BIAS)

    def after(self, node: gs.Node, note: str = "") -> Scores:
        """The same scores below a node that changes none."""
        return replace(
            self, nodes=(node, *self.nodes), notes=(*self.notes, note) if note else self.notes
        )


def read_scores(context: MatchContext, tensor: gs.Tensor) -> Scores:
    """Walks from the softmax input up to the QK^T product; raises MatchFailure with the first thing not understood."""
    return _read(context, tensor, 0)


def _read(
    context: MatchContext, tensor: gs.Tensor, depth: int, aside: gs.Node | None = None
) -> Scores:
    """Reads the scores ``tensor``; ``aside`` reads them too, for something that changes nothing."""
    node = producer(tensor)
    if node is None:
        raise MatchFailure(
            f"the scores come from '{tensor.name}', which no node computes", depth=depth
        )
    if depth > _DEPTH:
        raise MatchFailure(
            f"more than {_DEPTH} steps between the softmax and the QK^T product", depth=depth
        )
    if node.domain:
        raise MatchFailure(
            f"operator {node.domain}::{node.op} (node '{node.name}') stands between QK^T and softmax",
            depth=depth,
        )
    context.only_consumer(tensor, "score matrix", aside=aside, depth=depth)
    if node.op == "MatMul":
        return _product(context, node)
    if node.op in ("Cast", "Identity"):
        check_float(node)
        return _read(context, node.inputs[0], depth + 1).after(node)
    if node.op in RESHAPING:
        return _reshaped(context, node, _read(context, node.inputs[0], depth + 1))
    if node.op == "DequantizeLinear":
        return _read_rounded(context, node, depth)
    if is_bend(node):
        inner = _read(context, node.inputs[0], depth + 1)
        check_bend(
            node,
            masked=bool(inner.masks),
            bent=inner.bent is not None,
            shifted=bool(inner.shifts),
        )
        return replace(inner.after(node), factor=1.0, bent=inner.factor)
    scaled = scaled_input(node, context.shapes)
    if scaled is not None:
        inner = _scaled(node, scaled[1], _read(context, scaled[0], depth + 1))
        more = (context.shapes.rank(node.outputs[0]) or 0) - len(inner.axes)
        return replace(inner, axes=(*((),) * more, *inner.axes))  # a factor may have more axes
    if node.op == "Sub":
        shifted = shifted_input(context, node)
        if shifted is not None:
            source, reduce = shifted
            inner = _read(context, source, depth + 1, aside=reduce).after(node)
            return replace(inner, shifts=(*inner.shifts, flat(inner.axes[-1:])))
    if node.op in ("Add", "Sub"):
        return _read_add(context, node, depth)
    if node.op == "Where":
        return _read_where(context, node, depth)
    raise MatchFailure(
        f"operator {node.op} (node '{node.name}') between QK^T and softmax",
        "a factor may differ from head to head, query to query or key to key, but not from score to score"
        if node.op == "Mul"
        else "",
        depth=depth,
    )


def _product(context: MatchContext, node: gs.Node) -> Scores:
    shape = context.shapes.shape(node.outputs[0])
    left, right = (context.shapes.shape(tensor) for tensor in node.inputs)
    if shape is None or left is None or right is None or min(len(left), len(right)) < 2:
        raise MatchFailure(f"the shape of the product '{node.name}' is not known")
    if len(left) == len(right):  # two open extents that meet are one: that of the left operand
        front = [
            own if may_be(own, other) else _stretched(own, other, extent)
            for own, other, extent in zip(left[:-2], right[:-2], shape[:-2], strict=True)
        ]
        shape = (*front, *shape[-2:])
    return Scores(node, 1.0, (), (node,), shape, whole_axes(shape))


def _stretched(own: Dim, other: Dim, extent: Dim) -> Dim:
    """The extent of a product's axis; two that the model tells apart do not become one by way of it."""
    known = extent.value is not None or extent in (own, other)
    return extent if known else Dim.unknown(stretched=True)


def _reshaped(context: MatchContext, node: gs.Node, inner: Scores) -> Scores:
    target = context.shapes.shape(node.outputs[0])
    axes = None if target is None else through(node, inner.axes, target, context.shapes)
    if axes is None:
        raise MatchFailure(
            f"what node '{node.name}' makes of the axes of the scores is not understood:"
            f" {_listed(context.shapes.shape(node.inputs[0]))} to {_listed(target)}"
        )
    return replace(inner.after(node), axes=axes)


def _listed(shape: Shape | None) -> str:
    return "an unknown shape" if shape is None else str(list(shape))


def _scaled(node: gs.Node, factor: float, inner: Scores) -> Scores:
    masks = []
    for mask in inner.masks:
        term = mask.term
        if term.kind is MaskKind.BIAS:
            term = replace(term, factor=term.factor * factor)
        elif not term.fill * factor <= MASKING:
            raise MatchFailure(
                f"node '{node.name}' scales masked scores to {term.fill * factor:g}, which does not mask them"
            )
        else:
            term = replace(term, fill=term.fill * factor)
        masks.append(replace(mask, term=term))
    return replace(inner.after(node), factor=inner.factor * factor, masks=tuple(masks))


def _read_rounded(context: MatchContext, dequantize: gs.Node, depth: int) -> Scores:
    quantize = producer(dequantize.inputs[0])
    if quantize is None or not is_op(quantize, "QuantizeLinear"):
        raise MatchFailure(f"the scores of '{dequantize.name}' are integers that were not rounded")
    context.only_consumer(dequantize.inputs[0], "quantized score matrix", depth=depth)
    inner = _read(context, quantize.inputs[0], depth + 1)
    for mask in inner.masks:
        low = lowest_value(context.tensors[mask.term.tensor], context.shapes)
        hides = low is None or mask.term.factor < 0 or low * mask.term.factor < _NO_MASK
        if hides or mask.term.kind is not MaskKind.BIAS:
            raise MatchFailure(
                f"nodes '{quantize.name}' and '{dequantize.name}' round scores after"
                f" '{mask.term.tensor}' may have masked some, so that masked keys keep a weight",
                "leave the addition of the mask out of quantization",
            )
    if not rounds_scores(quantize, dequantize):
        raise MatchFailure(
            f"the codes of '{quantize.name}' and '{dequantize.name}' are not one step for all scores"
        )
    return inner.after(quantize).after(dequantize, ROUNDED_SCORES)


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
        raise max(failures, key=lambda failure: failure.depth)
    inner, bias = found[0] if len(found) == 1 else _likelier(context, node, found)
    negated = node.op == "Sub" and bias is node.inputs[0]  # bias - scores
    factor = -1.0 if node.op == "Sub" and not negated else 1.0
    score = node.inputs[int(bias is node.inputs[0])]
    scores = _placed(context, node, score, inner, MaskTerm(bias.name, MaskKind.BIAS, factor=factor))
    if not negated:
        return scores
    last = scores.masks[-1]
    turned = _scaled(node, -1.0, inner)
    return replace(turned, masks=(*turned.masks, last))


def _likelier(
    context: MatchContext, node: gs.Node, found: list[tuple[Scores, gs.Tensor]]
) -> tuple[Scores, gs.Tensor]:
    """Of two sums of products the one with QK^T; the other is a bias. Both readings are true if they can be had."""
    after = context.shapes.shape(node.outputs[0])
    whole = [
        entry
        for entry, score in zip(found, node.inputs, strict=True)
        if context.shapes.shape(score) == after and not _by_table(entry[0].product)
    ]
    plain = [entry for entry in whole if not entry[0].masks and entry[0].bent is None]
    direct = [entry for entry in plain if len(entry[0].nodes) <= _FEW]
    straight = [entry for entry in plain if entry[0].axes == whole_axes(entry[0].shape)]
    for choice in (whole, plain, straight, direct):
        if len(choice) == 1:
            return choice[0]
    raise MatchFailure(
        f"both operands of '{node.name}' are products; which one is QK^T is not clear"
    )


_FEW: Final = 4
"""A product that is turned into scores in no more steps is QK^T rather than a bias of positions."""


def _by_table(product: gs.Node) -> bool:
    """True for a product with a constant, such as a table of relative positions."""
    return any(isinstance(tensor, gs.Constant) for tensor in product.inputs)


def _placed(
    context: MatchContext, node: gs.Node, score: gs.Tensor, inner: Scores, term: MaskTerm
) -> Scores:
    """The scores ``inner`` of the value ``score`` once ``node`` has applied a mask to them."""
    extents = check_mask(context, node, context.shapes.shape(score), context.tensors[term.tensor])
    masks = (*inner.masks, PlacedMask(term, extents, inner.axes))
    return replace(inner.after(node), masks=masks)


def _read_where(context: MatchContext, node: gs.Node, depth: int) -> Scores:
    condition, yes, no = node.inputs
    for score, other, inverted in ((yes, no, False), (no, yes, True)):
        fill = uniform_value(other, context.shapes)
        if fill is None:
            continue
        if not fill <= MASKING:
            raise MatchFailure(
                f"node '{node.name}' puts {fill:g} in place of scores, which does not mask them"
            )
        inner = _read(context, score, depth + 1)
        check_mask(context, node, context.shapes.shape(score), other)
        kind = MaskKind.DROP if inverted else MaskKind.KEEP
        return _placed(context, node, score, inner, MaskTerm(condition.name, kind, fill))
    raise MatchFailure(
        f"node '{node.name}' selects between two computed values, none of them a masking constant",
        depth=depth,
    )


def check_mask(
    context: MatchContext, node: gs.Node, scores: Shape | None, mask: gs.Tensor
) -> Shape:
    """Refuses a mask that stretches the scores, as far as that can be told before a run; returns the mask's shape."""
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
    return extents


def check_float(node: gs.Node) -> None:
    """Refuses a cast of scores or weights to a type that is not a plain float."""
    if node.op == "Cast" and type_code(node.attrs.get("to")) not in FLOATS:
        raise MatchFailure(f"node '{node.name}' casts to a type that is no plain float")
