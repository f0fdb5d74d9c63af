"""Extents that are declared as a formula of others, such as ``((samples - 6)//8)``, and numbers that fit them."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

_MOST_TRIED: Final = 4096
_LONGEST: Final = 400
_OPERATORS: Final[Mapping[type[ast.operator], Callable[[int, int], int]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: Final[Mapping[str, Callable[..., int]]] = {"Max": max, "Min": min}
_SQUARE: Final = 2


@dataclass(frozen=True, slots=True)
class Formula:
    """A declared extent that follows from others.

    Attributes:
        tree: The parsed text; whole numbers, names, ``+ - * // %``, squares, Max and Min.
        names: The others.
    """

    tree: ast.expr
    names: frozenset[str]

    @staticmethod
    def of(text: str) -> Formula | None:
        """Reads a name; None for a plain one, and for what is not understood."""
        if text.isidentifier() or len(text) > _LONGEST:
            return None
        try:
            tree = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError):
            return None
        functions = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        names = frozenset(
            node.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and id(node) not in functions
        )
        found = Formula(tree, names)
        return found if names and found.at(dict.fromkeys(names, 1)) is not None else None

    def at(self, numbers: Mapping[str, int]) -> int | None:
        """The number; None if it cannot be computed."""
        try:
            return _value(self.tree, numbers)
        except (ArithmeticError, LookupError, TypeError, ValueError):
            return None

    def solve(self, wanted: int, numbers: Mapping[str, int]) -> dict[str, int]:
        """Numbers for its names so that it is ``wanted``, or at least 1; it changes few of those given."""
        if self.at(numbers) == wanted:
            return {}
        fallback: dict[str, int] = {}
        for name in sorted(self.names):
            for tried in range(1, _MOST_TRIED):
                value = self.at({**numbers, name: tried})
                if value == wanted:
                    return {name: tried}
                if value is not None and value > 0:
                    fallback = fallback or {name: tried}
        return fallback


def _value(node: ast.expr, numbers: Mapping[str, int]) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        return numbers[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, numbers)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _FUNCTIONS[node.func.id](*(_value(argument, numbers) for argument in node.args))
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, numbers), _value(node.right, numbers)
        if isinstance(node.op, ast.Pow) and right == _SQUARE:
            return left * left
        return _OPERATORS[type(node.op)](left, right)
    raise ValueError(f"{type(node).__name__} is no part of a formula")
