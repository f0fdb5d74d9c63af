"""Small numbers for the symbols in the extents of a region, so that every node of it takes its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import gcd
from typing import Final

from onnx import NodeProto

from qfa_passes.core.site import AttentionSite
from qfa_passes.graph.dims import Dim, product
from qfa_passes.graph.layout import Layout, canonical, viewed_shape
from qfa_passes.graph.shapes import Shape
from qfa_passes.verify.formulas import Formula
from qfa_passes.verify.region import Region, Source

_LOGIC: Final = ("And", "Or", "Xor", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
_ELEMENTWISE: Final = (
    *_LOGIC,
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Where",
    "Max",
    "Min",
    "Mod",
    "Sum",
)
_ROUNDS: Final = 3

BATCH, QUERIES, KEYS, PAST = "batch", "queries", "keys", "past"


@dataclass(slots=True)
class Solution:
    """Symbols as polynomials of those that are free."""

    table: dict[str, Dim] = field(default_factory=dict)

    def __call__(self, dim: Dim) -> Dim:
        """The extent in terms of free symbols."""
        return _substituted(dim, self.table)

    def equate(self, left: Dim, right: Dim) -> None:
        """Learns that two extents are equal; contradictions and what is not linear are passed over."""
        rest = self(left - right)
        symbol, value = _solved(rest)
        if symbol is None or value is None or value == 0:
            return  # a wrong site may say that something is empty; the block itself decides
        step = {symbol: value}
        self.table = {name: _substituted(dim, step) for name, dim in self.table.items()}
        self.table[symbol] = value


def _substituted(dim: Dim, table: Mapping[str, Dim]) -> Dim:
    if not any(symbol in table for monomial in dim.terms for symbol in monomial):
        return dim
    result = Dim.of(0)
    for monomial, factor in dim.terms.items():
        parts = tuple(table.get(symbol) or Dim.of(symbol) for symbol in monomial)
        result = result + Dim.of(factor) * product(parts)
    return result


def _solved(rest: Dim) -> tuple[str | None, Dim | None]:
    """A symbol and what it must be for ``rest`` to be zero; positive if that can be had."""
    divisor = gcd(*rest.terms.values()) if rest.terms else 1
    terms = {monomial: factor // divisor for monomial, factor in rest.terms.items()}
    found: tuple[str | None, Dim | None] = (None, None)
    for monomial, factor in terms.items():
        if len(monomial) != 1 or abs(factor) != 1:
            continue
        others = {other: -factor * value for other, value in terms.items() if other != monomial}
        if any(monomial[0] in other for other in others):
            continue
        value = Dim(others)
        if value.non_negative:
            return monomial[0], value
        found = monomial[0], value
    return found


def solve(region: Region, site: AttentionSite, source: Source, layout: Layout) -> Solution:
    """What must hold between the symbols of a region for it to run."""
    solution = Solution()
    equations = [*_of_nodes(region, source), *_of_site(site, source, layout)]
    for _ in range(_ROUNDS):  # a later equation may make an earlier one linear
        for left, right in equations:
            solution.equate(left, right)
    return solution


def _of_nodes(region: Region, source: Source) -> Iterator[tuple[Dim, Dim]]:
    for node in region.nodes:
        names = [name for name in (*node.input, *node.output[:1]) if name]
        shapes = [source.shapes.shapes.get(name) for name in names]
        known = [shape for shape in shapes if shape is not None]
        if node.domain or len(known) < 2:
            continue
        if node.op_type in _ELEMENTWISE:
            yield from _broadcast(known)
        elif node.op_type == "MatMul" and len(known) == 3 and min(map(len, known)) >= 2:
            yield known[0][-1], known[1][-2]
            yield from _broadcast([shape[:-2] for shape in known])
        elif node.op_type == "Concat" and len({len(shape) for shape in known}) == 1:
            axis = _axis(node, len(known[0]))
            for other in known[1:]:
                pairs = zip(known[0], other, strict=True)
                yield from (pair for at, pair in enumerate(pairs) if at != axis)


def _axis(node: NodeProto, rank: int) -> int:
    return next((item.i for item in node.attribute if item.name == "axis"), 0) % rank


def _broadcast(shapes: Sequence[Shape]) -> Iterator[tuple[Dim, Dim]]:
    for axis in range(1, 1 + max(map(len, shapes), default=0)):
        extents = [shape[-axis] for shape in shapes if len(shape) >= axis and shape[-axis] != 1]
        yield from ((extents[0], other) for other in extents[1:])


def _of_site(site: AttentionSite, source: Source, layout: Layout) -> Iterator[tuple[Dim, Dim]]:
    key, value = canonical(source.shapes, site.key), canonical(source.shapes, site.value)
    yield from ((layout.batch, shape[0]) for shape in (key, value))
    yield key[2], value[2]
    if site.cache is not None:
        for name in (site.cache.past_key, site.cache.past_value):
            shape = source.shapes.shapes.get(name)
            if shape is not None and len(shape) == 4 and layout.past is not None:
                yield layout.batch, shape[0]
                yield layout.past, shape[2]
    scores = (layout.batch, Dim.of(site.num_heads), layout.queries, layout.all_keys)
    for term in site.mask.terms:
        shape = source.shapes.shapes.get(term.tensor)
        viewed = None if shape is None else viewed_shape(shape, term.views)
        if viewed is not None and len(viewed) <= 4:
            last = -1 if term.fewer_keys else None
            yield from _broadcast([scores[:last], viewed[:last]])
    if site.mask.kv_length is not None:
        shape = source.shapes.shapes.get(site.mask.kv_length)
        if shape is not None and len(shape) == 1 and shape[0] != 1:
            yield layout.batch, shape[0]


def assignments(
    solution: Solution, layout: Layout, dims: Sequence[Dim], least: int
) -> Iterator[dict[str, int]]:
    """Yields numbers for all symbols of ``dims``, first odd and different ones for batch, queries and keys.

    Args:
        solution: What must hold.
        layout: Whose symbols get numbers by their role.
        dims: Extents of region inputs, which must be at least 1, and items of shapes.
        least: Keys must number at least so many (for a window to show).
    """
    roles = [(layout.batch, BATCH), (layout.queries, QUERIES)]
    roles += [] if layout.past is None else [(layout.past, PAST)]
    roles += [(layout.keys, KEYS)]
    symbols: dict[str, str] = {}
    for dim, role in roles:
        symbols.update(dict.fromkeys(sorted(symbols_of(solution(dim)) - symbols.keys()), role))
    everything = sorted({symbol for dim in dims for symbol in symbols_of(dim)} | symbols.keys())
    free = {symbol for dim in everything for symbol in symbols_of(solution(Dim.of(dim)))}
    likely_first = sorted(free, key=lambda symbol: (symbol not in symbols, symbol))
    formulas = {
        symbol: found for symbol in likely_first if (found := Formula.of(symbol)) is not None
    }
    names = sorted(free.union(*(formula.names for formula in formulas.values())))
    seen: list[dict[str, int]] = []
    for choice in _CHOICES:
        chosen = dict(choice)
        for role in (KEYS, PAST) if layout.past is None else (PAST,):
            chosen[role] = max(chosen[role], least)
        if not solution(layout.keys - layout.queries).terms:
            chosen[QUERIES] = max(chosen[QUERIES], least)
        numbers = {
            symbol: chosen[symbols[symbol]] if symbol in symbols else 2 + place % 5
            for place, symbol in enumerate(names)
        }
        numbers = _fitted(numbers, formulas)
        result = {symbol: solution(Dim.of(symbol)).at(numbers) for symbol in everything} | numbers
        if result not in seen:
            seen.append(result)
            yield result


def _fitted(numbers: Mapping[str, int], formulas: Mapping[str, Formula]) -> dict[str, int]:
    """Changes what formulas are of until they are what they are to be, or at least have a value."""
    fitted = dict(numbers)
    settled: set[str] = set()
    for symbol, formula in formulas.items():
        has_value = (formula.at(fitted) or 0) > 0
        if not (has_value and formula.names <= settled):
            fitted |= formula.solve(numbers[symbol], fitted)
        settled |= formula.names
    for symbol, formula in formulas.items():
        fitted[symbol] = formula.at(fitted) or 0
    return fitted


_CHOICES: Final = tuple(
    {BATCH: batch, QUERIES: queries, PAST: past, KEYS: keys}
    for batch, queries, past, keys in (
        (2, 5, 3, 7),
        (3, 7, 6, 5),
        (2, 1, 9, 3),
        (1, 4, 4, 4),
        (2, 6, 6, 12),
        (4, 9, 1, 9),
    )
)


def symbols_of(dim: Dim) -> set[str]:
    """The symbols of an extent."""
    return {symbol for monomial in dim.terms for symbol in monomial}
