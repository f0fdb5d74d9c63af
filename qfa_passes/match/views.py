"""Which tensor, viewed how, is Q, K or V, once transposes, reshapes and repeats are undone.

Between a projection and the attention product exporters put any mix of Transpose, Reshape, Unsqueeze, Expand, a scale,
a Cast and Q/DQ. Each value on that chain is a *view* of the value at its top (match/atoms.py). Walking the chain down
from each candidate top tells whether the bottom is that candidate with its axes arranged anew and its heads repeated.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import onnx_graphsurgeon as gs

from qfa_passes.core.site import Operand
from qfa_passes.core.view import View, ViewOp, Views, permute
from qfa_passes.graph.dims import Dim
from qfa_passes.graph.ir import is_op, producer
from qfa_passes.graph.shapes import Shape, ShapeMap
from qfa_passes.match.atoms import (
    REPEATING,
    RESHAPING,
    Atom,
    Axes,
    Axis,
    extent_of,
    flat,
    regroup,
    through,
    whole_axes,
)
from qfa_passes.match.element_types import cast_view, is_float
from qfa_passes.match.quantized import QdqPair, read_qdq
from qfa_passes.match.reshaping import reshape_views
from qfa_passes.match.scalars import scaled_input

_LONGEST: Final = 32


@dataclass(frozen=True, slots=True)
class Lead:
    """How the axes in front of the last two of a product are batch and heads.

    Attributes:
        batch: B.
        heads: H, counting repeats.
        shape: The extents in front of the last two of the product, whose product is B * H.
    """

    batch: Dim
    heads: Dim
    shape: Shape


@dataclass(frozen=True, slots=True)
class Step:
    """One edge of the chain: ``node`` makes the lower value from ``upper``."""

    node: gs.Node
    upper: gs.Tensor
    factor: float = 1.0
    qdq: QdqPair | None = None


@dataclass(frozen=True, slots=True)
class HeadsView:
    """An operand read through its views.

    Attributes:
        operand: Tensor and views to (batch, heads, rows, channels).
        heads: Heads that the operand holds.
        repeat: How often each head is used in a row (grouped queries).
        batch: Extent of the batch axis.
        channels: Extent of the channel axis.
        factor: Product of the scales on the way.
        notes: What was undone.
    """

    operand: Operand
    heads: int
    repeat: int
    batch: Dim
    channels: int
    factor: float
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class _Walk:
    """What was gathered on the way down from a candidate top."""

    factor: float
    scale: tuple[float, ...] | None
    path: tuple[str, ...]
    casts: Views
    notes: list[str]


def read_operand(
    consumer: gs.Node,
    position: int,
    shapes: ShapeMap,
    *,
    transposed: bool = False,
    scaled: bool = True,
    lead: Lead | None = None,
) -> HeadsView | None:
    """Reads an operand of an attention product.

    Args:
        consumer: The product that reads the operand.
        position: Which input of it: (..., rows, channels), or (..., channels, rows) when ``transposed``.
        shapes: Symbolic shapes of the graph.
        transposed: Whether channels come before rows (K^T).
        scaled: Whether a constant factor on the way may be read as part of the scale.
        lead: What the axes in front are; None: they are (B, H).

    Returns:
        The best reading (repeats undone, Q/DQ absorbed, few views, as far up as possible), or None.
    """
    tensor = consumer.inputs[position]
    steps = operand_chain(tensor, shapes, scaled=scaled)
    best: tuple[tuple[int, int, int, int], HeadsView] | None = None
    for height in range(len(steps) + 1):
        view = _read_from(consumer, tensor, steps[:height], shapes, transposed, lead)
        if view is None:
            continue
        absorbed = sum(step.qdq is not None for step in steps[:height])
        rank = (absorbed, -view.heads, -_cost(view.operand.views), height)
        if best is None or rank > best[0]:
            best = (rank, view)
    return None if best is None else best[1]


def operand_chain(tensor: gs.Tensor, shapes: ShapeMap, *, scaled: bool = True) -> list[Step]:
    """The view steps above a value, nearest first."""
    steps: list[Step] = []
    while len(steps) < _LONGEST:
        node = producer(tensor)
        if node is None or node.domain:
            break
        step = _step(node, shapes)
        if step is None or not (scaled or step.factor == 1):
            break
        steps.append(step)
        tensor = step.upper
    return steps


def axes_below(tensor: gs.Tensor, steps: list[Step], shapes: ShapeMap) -> Axes | None:
    """What the axes of a value are in terms of those at the top of the steps above it; None if that is not clear."""
    top = shapes.shape(steps[-1].upper if steps else tensor)
    axes: Axes | None = None if top is None else whole_axes(top)
    for position in range(len(steps) - 1, -1, -1):
        target = shapes.shape(steps[position - 1].upper if position else tensor)
        if axes is None or target is None:
            return None
        axes = through(steps[position].node, axes, target, shapes)
    return axes


def _cost(views: Views) -> int:
    """Work that the views make, roughly: what moves numbers counts, but two moves are hardly worse than one."""
    return min(sum(view.op in (ViewOp.TRANSPOSE, ViewOp.CAST) for view in views), 1) + min(
        sum(view.op not in (ViewOp.TRANSPOSE, ViewOp.CAST) for view in views), 1
    )


def _step(node: gs.Node, shapes: ShapeMap) -> Step | None:
    if is_op(node, *RESHAPING, *REPEATING, "Identity"):
        return Step(node, node.inputs[0])
    scaled = scaled_input(node, shapes)
    if scaled is not None:
        return Step(node, scaled[0], factor=scaled[1])
    pair = read_qdq(node)
    if pair is not None:
        return Step(node, pair.source, qdq=pair)
    if is_op(node, "Cast") and is_float(node.inputs[0]) and is_float(node.outputs[0]):
        return Step(node, node.inputs[0])
    return None


def _read_from(
    consumer: gs.Node,
    tensor: gs.Tensor,
    steps: list[Step],
    shapes: ShapeMap,
    transposed: bool,
    lead: Lead | None,
) -> HeadsView | None:
    top = steps[-1].upper if steps else tensor
    top_shape, axes = shapes.shape(top), axes_below(tensor, steps, shapes)
    if top_shape is None or axes is None:
        return None
    factor, notes = 1.0, list[str]()
    scale: tuple[float, ...] | None = None
    casts: Views = ()
    for step in reversed(steps):
        factor *= step.factor
        if step.qdq is not None:
            if scale is not None:
                return None  # two roundings are not one
            # What was multiplied in above the pair goes into the scale of the scores, so the pair's step shrinks by it.
            scale = tuple(size / abs(factor) for size in step.qdq.scale)
            notes.append("Q/DQ absorbed")
        elif step.node.op == "Cast":
            if casts:
                return None  # the one between may round
            casts = cast_view(step.node.outputs[0])
    path = (*(step.node.name for step in reversed(steps)), consumer.name)
    walk = _Walk(factor, scale, path, casts, notes)
    if lead is not None:
        top_shape, axes = _named_alike(top_shape, axes, lead)
    return _canonical(top, top_shape, _aligned(axes, transposed, lead), walk)


def _named_alike(top_shape: Shape, axes: Axes, lead: Lead) -> tuple[Shape, Axes]:
    """Takes extents for those of the product that they meet there, where no model says that they differ.

    A product takes two extents that are equal, or of which one is 1. That an open one is 1, to be stretched, would be
    for the model to say.
    """
    front = axes[:-2]
    if len(front) != len(lead.shape):
        return top_shape, axes
    alike: dict[int, Dim] = {}
    for axis, extent in zip(front, lead.shape, strict=True):
        if len(axis) == 1 and axis[0].whole and may_be(axis[0].extent, extent):
            assert axis[0].source is not None
            alike[axis[0].source] = extent
    if not alike:
        return top_shape, axes
    renamed = tuple(
        tuple(
            replace(atom, extent=alike[atom.source])
            if atom.source in alike and atom.whole
            else atom
            for atom in axis
        )
        for axis in axes
    )
    return tuple(alike.get(axis, dim) for axis, dim in enumerate(top_shape)), renamed


def may_be(own: Dim, other: Dim) -> bool:
    """True if two open extents that meet in a product may be one: they are not, if both have names of their own."""
    open_ = all(dim.value is None and not dim.is_stretched for dim in (own, other))
    shared = _symbols(own) & _symbols(other)  # as in 2*B and B, which differ
    named = _has_own_name(own) and _has_own_name(other)
    return open_ and own != other and not named and not shared


def _symbols(dim: Dim) -> set[str]:
    return {symbol for monomial in dim.terms for symbol in monomial}


def _has_own_name(dim: Dim) -> bool:
    """True for a plain name that a person gave; exporters number the axes of inputs."""
    return dim.is_symbol and "_dynamic_axes_" not in repr(dim)


def _aligned(axes: Axes, transposed: bool, lead: Lead | None) -> Axes | None:
    """(batch, heads, rows, channels) in atoms; None if the axes in front are not batch and heads."""
    if len(axes) < 2:
        return None
    rows, channels = axes[-1:-3:-1] if transposed else axes[-2:]
    front = axes[:-2]
    if lead is None:
        return (*front, rows, channels) if len(front) == 2 else None
    if len(front) > len(lead.shape):
        return None
    missing = len(lead.shape) - len(front)
    stretched: list[Axis] = []
    for axis, extent in zip(((),) * missing + front, lead.shape, strict=True):
        own = extent_of(axis)
        stretched.append((Atom(extent, None),) if own == 1 and extent != 1 else axis)
    # Extents may match as a product and not one by one: then the operand stretches the product.
    pairs = zip(stretched, lead.shape, strict=True)
    fits = all(extent_of(axis) == extent for axis, extent in pairs)
    grouped = regroup(flat(stretched), (lead.batch, lead.heads)) if fits else None
    if grouped is None and len(front) == 2 and lead.shape == (lead.batch, lead.heads):
        grouped = front  # batch or heads do not fit, and the message shall say which
    return None if grouped is None else (*grouped, rows, channels)


def _canonical(
    top: gs.Tensor, top_shape: Shape, axes: Axes | None, walk: _Walk
) -> HeadsView | None:
    """Checks that the bottom is (batch, heads x repeat, rows, channels) of axes of the top."""
    if axes is None:
        return None
    batch, heads, rows, channels = axes
    repeats = [atom for atom in heads if atom.source is None]
    owners = tuple(atom for atom in heads if atom.source is not None)
    if repeats and heads[: len(owners)] != owners:
        return None  # the repeat is outermost: query head h would read head h % Hkv
    own_batch = tuple(atom for atom in batch if atom.source is not None)
    if own_batch not in (batch, ()):
        return None  # some batches, each several times
    views = arrangement(top_shape, (own_batch, owners, rows, channels))
    if views is None:
        return None
    shared = extent_of(batch).value if own_batch != batch and not own_batch else None
    if shared is not None:  # one for all, in a batch of a fixed number
        views, own_batch = (*views, View(ViewOp.EXPAND, (shared, 1, 1, 1))), batch
    counts = [extent_of(axis).value for axis in (owners, tuple(repeats), channels)]
    head_count, repeat, channel_count = counts
    if head_count is None or repeat is None or channel_count is None:
        return None
    notes = list(walk.notes)
    if repeats:
        notes.append(f"{repeat}-fold repeated heads folded")
    operand = Operand(top.name, (*views, *walk.casts), walk.scale, walk.path)
    return HeadsView(
        operand, head_count, repeat, extent_of(own_batch), channel_count, walk.factor, tuple(notes)
    )


def arrangement(top_shape: Shape, groups: Axes) -> Views | None:
    """The steps from a top to an arrangement of all its axes; None if some are missing or the steps cannot be told."""
    wanted = [[atom for atom in group if atom.extent != 1] for group in groups]
    pieces: list[Atom] = []
    for axis, extent in enumerate(top_shape):
        own = sorted(
            (atom for group in wanted for atom in group if atom.source == axis),
            key=lambda atom: atom.part,
        )
        if extent_of(tuple(own)) != extent:
            return None
        pieces.extend(own or [Atom(extent, axis)])
    spare = [atom for atom in pieces if atom.extent == 1]
    order: list[Atom] = []
    for group in wanted:
        order.extend(group or spare[:1])
        spare = spare if group else spare[1:]
    order = [*spare, *order]  # axes of extent 1 that nothing asks for
    if len(order) != len(pieces) or set(order) != set(pieces):
        return None  # a repeat, or a piece twice
    split = reshape_views(top_shape, tuple(atom.extent for atom in pieces))
    merged = reshape_views(
        tuple(atom.extent for atom in order), tuple(extent_of(tuple(group)) for group in wanted)
    )
    if split is None or merged is None:
        return None
    return (*split, *permute(*(pieces.index(atom) for atom in order)), *merged)
