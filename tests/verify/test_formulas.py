"""Extents that are formulas of others."""

import pytest

from qfa_passes.verify.formulas import Formula


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("((samples - 6)//8)", 11),
        ("2*(((samples - 6)//8)) - 1", 21),
        ("Max(0, -Max(0, 4 - samples) + Min(samples**2, 7))", 7),
        ("(samples*other) % 7", 2),
        ("past + samples", None),
    ],
)
def test_value(text: str, value: int | None) -> None:
    formula = Formula.of(text)
    assert formula is not None
    assert formula.at({"samples": 94, "other": 3}) == value


@pytest.mark.parametrize(
    "text",
    ["batch", "?12", "3", "f(x)", "x.y", "x and y", "lambda: 0", "x / 2", "x(", "()" * 300, "[x]"],
)
def test_what_is_no_formula(text: str) -> None:
    assert Formula.of(text) is None


def test_numbers_for_a_wanted_value() -> None:
    formula = Formula.of("((samples - 6)//8)")
    assert formula is not None
    assert formula.solve(5, {"samples": 3}) == {"samples": 46}
    assert formula.solve(5, {"samples": 47}) == {}


def test_a_value_out_of_reach_becomes_positive() -> None:
    formula = Formula.of("Min(3, x - 4)")
    assert formula is not None
    assert formula.solve(5, {"x": 1}) == {"x": 5}
