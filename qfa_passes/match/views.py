"""The algebra of layouts: which tensor, permuted, is Q, K or V, once transposes, reshapes and repeats are undone.

Between a projection and the attention product exporters put any mix of Transpose, Reshape, Unsqueeze, Expand, a scale
and Q/DQ. Each value on that chain is a *view* of the value at its top: every axis of it is an ordered product of atoms,
where an atom is an axis of the top (or a factor of one) or a repeat. Walking the chain down from each candidate top
tells whether the bottom is that candidate with its axes permuted and its heads repeated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import onnx_graphsurgeon as gs

from qfa_passes.core.site import Operand
from qfa_passes.core.view import permute
from qfa_passes.graph.dims import Dim, product
from qfa_passes.graph.ir import is_op, producer
from qfa_passes.graph.shapes import Shape, ShapeMap
from qfa_passes.match.quantized import QdqPair, read_qdq
from qfa_passes.match.scalars import scaled_input

_LONGEST: Final = 32


@dataclass(frozen=True, slots=True)
class Atom:
    """A factor of an axis.

    Attributes:
        extent: Its size.
        source: The top's axis that it is, or None for a repeat.
        part: Tells the halves of a split axis apart; empty for a whole one.
    """

    extent: Dim
    source: int | None
    part: tuple[int, ...] = ()

    @property
    def whole(self) -> bool:
        """True if the atom is an entire axis of the top."""
        return self.source is not None and not self.part


Axis = tuple[Atom, ...]


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
        operand: Tensor and permutation to (batch, heads, rows, channels).
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
    notes: list[str]


def read_operand(
    consumer: gs.Node,
    position: int,
    shapes: ShapeMap,
    *,
    transposed: bool = False,
    scaled: bool = True,
) -> HeadsView | None:
    """Reads a 4-D operand of an attention product.

    Args:
        consumer: The product that reads the operand.
        position: Which input of it: (B, H, rows, channels), or (B, H, channels, rows) when ``transposed``.
        shapes: Symbolic shapes of the graph.
        transposed: Whether channels come before rows (K^T).
        scaled: Whether a constant factor on the way may be read as part of the scale.

    Returns:
        The best reading (repeats undone, Q/DQ absorbed, no extra Transpose, as far up as possible), or None.
    """
    tensor = consumer.inputs[position]
    steps = _chain(tensor, shapes, scaled)
    best: tuple[tuple[int, int, int, int], HeadsView] | None = None
    for height in range(len(steps) + 1):
        view = _read_from(consumer, tensor, steps[:height], shapes, transposed)
        if view is None:
            continue
        absorbed = sum(step.qdq is not None for step in steps[:height])
        rank = (absorbed, -view.heads, int(not view.operand.views), height)
        if best is None or rank > best[0]:
            best = (rank, view)
    return None if best is None else best[1]


def _chain(tensor: gs.Tensor, shapes: ShapeMap, scaled: bool) -> list[Step]:
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


def _step(node: gs.Node, shapes: ShapeMap) -> Step | None:
    if is_op(node, "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Expand", "Identity"):
        return Step(node, node.inputs[0])
    scaled = scaled_input(node, shapes)
    if scaled is not None:
        return Step(node, scaled[0], factor=scaled[1])
    pair = read_qdq(node)
    if pair is not None:
        return Step(node, pair.source, qdq=pair)
    return None


def _read_from(
    consumer: gs.Node, tensor: gs.Tensor, steps: list[Step], shapes: ShapeMap, transposed: bool
) -> HeadsView | None:
    top = steps[-1].upper if steps else tensor
    top_shape = shapes.shape(top)
    if top_shape is None or len(top_shape) != 4:
        return None
    axes: tuple[Axis, ...] | None = tuple(
        (Atom(extent, axis),) for axis, extent in enumerate(top_shape)
    )
    factor, notes = 1.0, list[str]()
    scale: tuple[float, ...] | None = None
    for position in range(len(steps) - 1, -1, -1):
        step = steps[position]
        below = steps[position - 1].upper if position else tensor
        target = shapes.shape(below)
        axes = (
            _apply(step, axes, target, shapes) if axes is not None and target is not None else None
        )
        if axes is None:
            return None
        factor *= step.factor
        if step.qdq is not None:
            if scale is not None:
                return None  # two roundings are not one
            # What was multiplied in above the pair goes into the scale of the scores, so the pair's step shrinks by it.
            scale = tuple(size / abs(factor) for size in step.qdq.scale)
            notes.append("Q/DQ absorbed")
    path = (*(step.node.name for step in reversed(steps)), consumer.name)
    return _canonical(top, top_shape, axes or (), transposed, _Walk(factor, scale, path, notes))


def _apply(
    step: Step, axes: tuple[Axis, ...], target: Shape, shapes: ShapeMap
) -> tuple[Axis, ...] | None:
    node = step.node
    if node.op == "Transpose":
        perm = node.attrs.get("perm") or list(range(len(axes)))[::-1]
        if len(perm) != len(axes):
            return None
        return tuple(axes[axis] for axis in perm)
    if node.op in ("Reshape", "Unsqueeze", "Squeeze"):
        return regroup(tuple(atom for axis in axes for atom in axis), target)
    if node.op == "Expand":
        return _expand(axes, target)
    return axes if len(axes) == len(target) else None


def _expand(axes: tuple[Axis, ...], target: Shape) -> tuple[Axis, ...] | None:
    if len(target) < len(axes):
        return None
    padded: tuple[Axis, ...] = ((),) * (len(target) - len(axes)) + axes
    result: list[Axis] = []
    for axis, extent in zip(padded, target, strict=True):
        own = product(tuple(atom.extent for atom in axis))
        if own == extent:
            result.append(axis)
        elif own == 1:
            result.append((Atom(extent, None),))
        else:
            return None
    return tuple(result)


def regroup(atoms: tuple[Atom, ...], target: Shape) -> tuple[Axis, ...] | None:
    """Deals atoms out to the extents of a reshaped value, splitting an atom where an extent divides it."""
    rest = [atom for atom in atoms if atom.extent != 1]
    result: list[Axis] = []
    for extent in target:
        taken: list[Atom] = []
        have = Dim.of(1)
        while have != extent:
            if not rest:
                return None
            wanted = extent.divide(have)
            if wanted is None:
                return None
            atom = rest.pop(0)
            if wanted.divide(atom.extent) is None:
                inner = atom.extent.divide(wanted)
                if inner is None:
                    return None
                rest.insert(0, Atom(inner, atom.source, (*atom.part, 1)))
                atom = Atom(wanted, atom.source, (*atom.part, 0))
            taken.append(atom)
            have = have * atom.extent
        result.append(tuple(taken))
    return tuple(result) if not rest else None


def _canonical(
    top: gs.Tensor,
    top_shape: Shape,
    axes: tuple[Axis, ...],
    transposed: bool,
    walk: _Walk,
) -> HeadsView | None:
    """Checks that the bottom is (batch, heads x repeat, rows, channels) of whole axes of the top."""
    if len(axes) != 4:
        return None
    batch, heads, rows, channels = (axes[0], axes[1], axes[3], axes[2]) if transposed else axes
    repeats = [atom for atom in heads if atom.source is None]
    owners = tuple(atom for atom in heads if atom.source is not None)
    if repeats and heads[: len(owners)] != owners:
        return None  # the repeat is outermost: query head h would read head h % Hkv
    notes = list(walk.notes)
    places: list[int | None] = []
    for group in (batch, owners, rows, channels):
        atoms = [atom for atom in group if atom.extent != 1]
        if len(atoms) > 1 or any(not atom.whole for atom in atoms):
            return None
        places.append(atoms[0].source if atoms else None)
    used = {place for place in places if place is not None}
    spare = [axis for axis in range(4) if axis not in used]
    if any(top_shape[axis] != 1 for axis in spare):
        return None
    perm = tuple(place if place is not None else spare.pop(0) for place in places)
    head_count, repeat = (
        top_shape[perm[1]].value,
        product(tuple(atom.extent for atom in repeats)).value,
    )
    channel_count = top_shape[perm[3]].value
    if head_count is None or repeat is None or channel_count is None:
        return None
    if repeats:
        notes.append(f"{repeat}-fold repeated heads folded")
    operand = Operand(top.name, permute(*perm), walk.scale, walk.path)
    return HeadsView(
        operand, head_count, repeat, top_shape[perm[0]], channel_count, walk.factor, tuple(notes)
    )
