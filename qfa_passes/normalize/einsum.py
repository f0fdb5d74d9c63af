"""Which batched matrix product an Einsum of two operands is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Product:
    """An Einsum as a MatMul: axes of both operands are permuted, missing ones are inserted, and so is the result's.

    Attributes:
        swapped: The second operand of the Einsum is the left one of the product.
        left_perm: Order in which the axes of the left operand are taken.
        left_new: Axes of extent 1 that it lacks then.
        right_perm: Likewise for the right one.
        right_new: Likewise.
        row: False if the left operand has no rows of its own: the product has one row, which is dropped.
        result_perm: Order in which the axes of the product (without a dropped row) are the result.
    """

    swapped: bool
    left_perm: tuple[int, ...]
    left_new: tuple[int, ...]
    right_perm: tuple[int, ...]
    right_new: tuple[int, ...]
    row: bool
    result_perm: tuple[int, ...]


def read_product(equation: str, ranks: tuple[int, int]) -> Product | None:
    """Reads an equation for operands of these ranks; None if it is no matrix product over one shared axis."""
    terms = _terms(equation, ranks)
    if terms is None:
        return None
    first, second, result = terms
    summed = [letter for letter in first if letter in second and letter not in result]
    every = set(first) | set(second)
    if len(summed) != 1 or set(result) | set(summed) != every or not set(result) <= every:
        return None
    own = [letter for letter in result if (letter in first) != (letter in second)]
    if not own:
        return None
    column = own[-1]
    swapped = column in first
    left, right = (second, first) if swapped else (first, second)
    rows = [letter for letter in own if letter in left]
    ends = [*rows[-1:], column]
    lead = [letter for letter in result if letter not in ends]
    product = lead + ends
    return Product(
        swapped,
        *_laid_out(left, lead, [*rows[-1:], *summed], bare=not rows),
        *_laid_out(right, lead, [*summed, column], bare=False),
        bool(rows),
        tuple(product.index(letter) for letter in result),
    )


def _laid_out(
    term: str, lead: list[str], tail: list[str], *, bare: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How to permute an operand to ``lead`` and ``tail``, and which axes it lacks; ``bare``: it lacks rows too."""
    order = [letter for letter in lead if letter in term] + tail
    missing = [place for place, letter in enumerate(lead) if letter not in term]
    if bare:
        missing.append(len(lead))
    return tuple(term.index(letter) for letter in order), tuple(missing)


def _terms(equation: str, ranks: tuple[int, int]) -> tuple[str, str, str] | None:
    """Letters of both operands and of the result; what an ellipsis stands for gets digits."""
    left, arrow, result = equation.replace(" ", "").partition("->")
    inputs = left.split(",")
    if len(inputs) != 2:
        return None
    spelled = []
    for term, rank in zip(inputs, ranks, strict=True):
        hidden = rank - len(term.replace("...", ""))
        if hidden < 0 or (hidden and "..." not in term) or hidden > 9:
            return None
        spelled.append(term.replace("...", "9876543210"[10 - hidden :] if hidden else ""))
    digits = max((term for term in (_digits(term) for term in spelled)), key=len)
    if not arrow:
        letters = left.replace(",", "").replace("...", "")
        result = "..." + "".join(sorted(letter for letter in letters if letters.count(letter) == 1))
    result = result.replace("...", digits)
    terms = (*spelled, result)
    if any(len(set(term)) < len(term) or not term.isalnum() for term in terms):
        return None
    return spelled[0], spelled[1], result


def _digits(term: str) -> str:
    return "".join(letter for letter in term if letter.isdigit())
