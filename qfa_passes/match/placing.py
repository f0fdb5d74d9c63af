"""A mask that is added in some view of the scores, as one that is broadcastable to (B, H, S, T)."""

from __future__ import annotations

from dataclasses import dataclass

from qfa_passes.core.site import MaskTerm
from qfa_passes.core.view import View, ViewOp, Views, permute
from qfa_passes.graph.dims import Dim, product
from qfa_passes.graph.shapes import Shape
from qfa_passes.match.atoms import Atom, Axes, extent_of, flat
from qfa_passes.match.reshaping import reshape_views

_ONE = Dim.of(1)


@dataclass(frozen=True, slots=True)
class PlacedMask:
    """A mask term and the view of the scores that it is broadcast to; its own views are not known yet.

    Attributes:
        term: The term.
        shape: Shape of its value.
        axes: Axes of the scores at that place, in atoms of the product's axes.
    """

    term: MaskTerm
    shape: Shape
    axes: Axes


@dataclass(frozen=True, slots=True)
class ScoreLayout:
    """Which axes of the QK^T product are queries and keys, and where the others split into batch and heads.

    Attributes:
        rows: The product's axis of queries.
        keys: The product's axis of keys.
        batch: B.
        heads: H.
        queries: S.
        columns: T.
    """

    rows: int
    keys: int
    batch: Dim
    heads: Dim
    queries: Dim
    columns: Dim

    @property
    def shape(self) -> Shape:
        """(B, H, S, T)."""
        return self.batch, self.heads, self.queries, self.columns

    def deal(self, axes: Axes) -> list[tuple[int, int, Atom]] | None:
        """All atoms of a view of the scores, each with its view axis and with what it is part of: B, H, S or T.

        None if the axes in front are out of order or do not split at B.
        """
        dealt: list[tuple[int, int, Atom]] = []
        have = _ONE
        last: tuple[int, tuple[int, ...]] = (-1, ())
        for place, axis in enumerate(axes):
            for atom in flat((axis,)):
                if atom.source is None:
                    return None
                if atom.source in (self.rows, self.keys):
                    dealt.append((place, 2 + (atom.source == self.keys), atom))
                    continue
                if (atom.source, atom.part) < last:
                    return None
                last = (atom.source, atom.part)
                halves = self._cut(have, atom)
                if halves is None:
                    return None
                for half in halves:
                    dealt.append((place, int(have == self.batch), half))
                    if have != self.batch:
                        have = have * half.extent
        return dealt

    def _cut(self, have: Dim, atom: Atom) -> tuple[Atom, ...] | None:
        """Splits an atom that reaches across the border of batch and heads."""
        if have == self.batch:
            return (atom,)
        missing = self.batch.divide(have)
        if missing is None:
            return None
        return (atom,) if missing.divide(atom.extent) is not None else atom.split(missing)


def place(mask: PlacedMask, layout: ScoreLayout) -> Views | None:
    """The steps that make a mask broadcastable to (B, H, S, T), or None if there are none with fixed numbers."""
    dealt = layout.deal(mask.axes)
    if dealt is None or len(mask.shape) > len(mask.axes):
        return None
    missing = len(mask.axes) - len(mask.shape)
    shape = (*(_ONE,) * missing, *mask.shape)
    if _is_canonical(dealt, mask.axes):
        return ()
    if _fits_as_it_is(dealt, shape):
        return _strip(mask.shape)
    stretched = []
    for axis, own in zip(mask.axes, shape, strict=True):
        whole = own == extent_of(axis)
        if not whole and own != 1:
            return None
        stretched.append(whole)
    # One entry per atom: what it is part of, whether the mask has it, and its extent.
    split = tuple(atom.extent if stretched[place] else _ONE for place, _, atom in dealt)
    order = sorted(range(len(dealt)), key=lambda index: (dealt[index][1], _rank(dealt[index][2])))
    groups = [[index for index in order if dealt[index][1] == part] for part in range(4)]
    numbers: list[int] = []
    for group in groups:
        full = [stretched[dealt[index][0]] for index in group]
        for index, has in zip(group, full, strict=True):
            extent = dealt[index][2].extent.value
            if any(full) and not has and extent is None:
                return None  # would be repeated a number of times that only a run tells
            numbers.append(1 if has or not any(full) else extent or 1)
    merged_from = tuple(
        Dim.of(number) if number != 1 else split[index]
        for number, index in zip(numbers, order, strict=True)
    )
    target = tuple(
        product(tuple(merged_from[order.index(index)] for index in group)) for group in groups
    )
    first, last = reshape_views(mask.shape, split), reshape_views(merged_from, target)
    if first is None or last is None:
        return None
    expand = (View(ViewOp.EXPAND, tuple(numbers)),) if any(n != 1 for n in numbers) else ()
    return (*first, *permute(*order), *expand, *last)


def _rank(atom: Atom) -> tuple[int, tuple[int, ...]]:
    return atom.source or 0, atom.part


def _is_canonical(dealt: list[tuple[int, int, Atom]], axes: Axes) -> bool:
    """True if the view is (B, H, S, T) itself."""
    return len(axes) == 4 and all(place == part for place, part, _ in dealt)


def _fits_as_it_is(dealt: list[tuple[int, int, Atom]], shape: Shape) -> bool:
    """True if queries and keys are the last two axes of the view and the mask is the same for all others."""
    rank = len(shape)
    if any(dim != 1 for dim in shape[:-2]):
        return False
    return all(place == rank - 4 + part for place, part, _ in dealt if part >= 2) and all(
        place < rank - 2 for place, part, _ in dealt if part < 2
    )


def _strip(shape: Shape) -> Views:
    """Takes leading axes away until four are left."""
    return (View(ViewOp.SQUEEZE, tuple(range(len(shape) - 4))),) if len(shape) > 4 else ()
