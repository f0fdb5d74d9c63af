"""Symbolic extents: polynomials with integer coefficients over non-negative symbols.

Exact where exporters compute shapes (sums, products, exact quotients of batch, length and head counts); anything else
becomes a fresh symbol, so equality of two extents is proof and inequality is not.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import lru_cache
from itertools import count
from math import prod
from typing import Final

_fresh = count()

Monomial = tuple[str, ...]

_MOST_STEPS: Final = 64
_STRETCHED: Final = "stretched"


class Dim:
    """An immutable extent; compare with ``==``, combine with ``+ - *`` and `divide`."""

    __slots__ = ("_key", "terms")

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        """Makes a polynomial from monomial -> coefficient."""
        self.terms = {monomial: factor for monomial, factor in terms.items() if factor}
        self._key: tuple[tuple[Monomial, int], ...] | None = None

    @staticmethod
    def of(value: int | str | Dim) -> Dim:
        """An extent from a number or a symbol."""
        if isinstance(value, Dim):
            return value
        return _number(int(value)) if isinstance(value, int) else _symbol(value)

    @staticmethod
    def parse(text: str) -> Dim:
        """An extent from its declared name; exporters declare ``4*batch`` or ``past + sequence`` too."""
        if text.isidentifier():
            return Dim.of(text)
        try:
            parsed = _polynomial(ast.parse(text, mode="eval").body)
        except (SyntaxError, ValueError, RecursionError):  # what ast.parse may raise
            parsed = None
        return Dim.of(text) if parsed is None else parsed

    @staticmethod
    def unknown(*, stretched: bool = False) -> Dim:
        """A new symbol that equals nothing else; it stands for a non-negative number like any other.

        Args:
            stretched: It is what an axis was broadcast to, by a node that is there to do so.
        """
        return Dim({(f"?{_STRETCHED if stretched else ''}{next(_fresh)}",): 1})

    @property
    def value(self) -> int | None:
        """The number, if the extent is constant."""
        if not self.terms:
            return 0
        return self.terms[()] if len(self.terms) == 1 and () in self.terms else None

    @property
    def is_anonymous(self) -> bool:
        """True for an unknown that no model has named."""
        ((monomial, factor),) = self.terms.items() if len(self.terms) == 1 else (((), 0),)
        return factor == 1 and len(monomial) == 1 and monomial[0].startswith("?")

    @property
    def is_stretched(self) -> bool:
        """True if an extent in it comes of a broadcast that may have changed it."""
        return any(symbol.startswith(f"?{_STRETCHED}") for term in self.terms for symbol in term)

    @property
    def is_symbol(self) -> bool:
        """True for a plain named extent, such as a declared input dimension; not for anonymous or composed ones."""
        if len(self.terms) != 1:
            return False
        ((monomial, factor),) = self.terms.items()
        return (
            factor == 1
            and len(monomial) == 1
            and monomial[0].isidentifier()
            and "unk__" not in monomial[0]
        )

    @property
    def non_negative(self) -> bool:
        """True if the extent provably is not below zero, knowing that symbols are not."""
        return all(factor > 0 for factor in self.terms.values())

    def differs(self, number: int) -> bool:
        """True if the extent provably is not ``number``, knowing that symbols are non-negative."""
        if self.value is not None:
            return self.value != number
        return number < 0 and self.non_negative

    @property
    def key(self) -> tuple[tuple[Monomial, int], ...]:
        """The terms in order; equal for equal extents."""
        if self._key is None:
            self._key = tuple(sorted(self.terms.items()))
        return self._key

    def __eq__(self, other: object) -> bool:
        """Equality of polynomials."""
        if isinstance(other, int):
            return self.value == other
        return self is other or (isinstance(other, Dim) and self.terms == other.terms)

    def __hash__(self) -> int:
        """Hash consistent with equality among extents."""
        return hash(self.key)

    def __add__(self, other: Dim) -> Dim:
        """Sum."""
        terms = dict(self.terms)
        for monomial, factor in other.terms.items():
            terms[monomial] = terms.get(monomial, 0) + factor
        return Dim(terms)

    def __neg__(self) -> Dim:
        """Negation."""
        return Dim({monomial: -factor for monomial, factor in self.terms.items()})

    def __sub__(self, other: Dim) -> Dim:
        """Difference."""
        return self + -other

    def __mul__(self, other: Dim) -> Dim:
        """Product."""
        if other is _ONE or self is _ONE:
            return self if other is _ONE else other
        terms: dict[Monomial, int] = {}
        for left, a in self.terms.items():
            for right, b in other.terms.items():
                monomial = tuple(sorted(left + right))
                terms[monomial] = terms.get(monomial, 0) + a * b
        return Dim(terms)

    def divide(self, other: Dim) -> Dim | None:
        """The exact quotient, or None if it is not provably exact."""
        if not other.terms:
            return None
        leader = other._leader
        quotient, rest = Dim({}), self
        for _ in range(_MOST_STEPS):
            if not rest.terms:
                return quotient
            first = rest._leader
            symbols = _without(first, leader)
            factor, left = divmod(rest.terms[first], other.terms[leader])
            if symbols is None or left:
                return None
            part = Dim({symbols: factor})
            quotient, rest = quotient + part, rest - part * other
        return None

    @property
    def _leader(self) -> Monomial:
        """The monomial of the highest degree; of several, the first by name."""
        return min(self.terms, key=lambda monomial: (-len(monomial), monomial))

    def at(self, numbers: Mapping[str, int]) -> int:
        """The number that the extent is when its symbols have these values."""
        return sum(
            factor * prod(numbers[symbol] for symbol in monomial)
            for monomial, factor in self.terms.items()
        )

    def __repr__(self) -> str:
        """Readable form such as ``3*batch*seq + 1``."""
        if not self.terms:
            return "0"
        parts = []
        for monomial, factor in self.key:
            symbols = "*".join(monomial)
            parts.append(
                str(factor) if not symbols else symbols if factor == 1 else f"{factor}*{symbols}"
            )
        return " + ".join(parts)


def _without(monomial: Monomial, divisor: Monomial) -> Monomial | None:
    """The quotient of two monomials, or None."""
    rest = list(monomial)
    for symbol in divisor:
        if symbol not in rest:
            return None
        rest.remove(symbol)
    return tuple(rest)


def _polynomial(tree: ast.expr) -> Dim | None:
    """A sum or product of names and numbers; None for anything else."""
    if isinstance(tree, ast.Name):
        return Dim.of(tree.id)
    if isinstance(tree, ast.Constant):
        return Dim.of(tree.value) if type(tree.value) is int else None
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        inner = _polynomial(tree.operand)
        return None if inner is None else -inner
    if not isinstance(tree, ast.BinOp):
        return None
    left, right = _polynomial(tree.left), _polynomial(tree.right)
    if left is None or right is None:
        return None
    if isinstance(tree.op, ast.Add):
        return left + right
    if isinstance(tree.op, ast.Sub):
        return left - right
    return left * right if isinstance(tree.op, ast.Mult) else None


@lru_cache(maxsize=65536)
def _number(value: int) -> Dim:
    return Dim({(): value})


@lru_cache(maxsize=4096)
def _symbol(name: str) -> Dim:
    return Dim({(name,): 1})


_ONE: Final = _number(1)


def product(dims: tuple[Dim, ...]) -> Dim:
    """The product of extents; 1 for none."""
    result = _ONE
    for dim in dims:
        result = result * dim
    return result
