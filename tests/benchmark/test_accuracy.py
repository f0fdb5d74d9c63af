"""The accuracy report measures what it says."""

import re
from pathlib import Path

import numpy as np
import pytest

from benchmark import bench_accuracy
from benchmark.attention.case import Case, make_operands
from benchmark.bench_accuracy import INPUTS, Rows, caches, errors, exact, measure, products

PAGE = Path(__file__).parents[2] / "docs" / "quantization.md"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is longer than the case that is asked for."""
    monkeypatch.setattr(bench_accuracy, "long_case", lambda case: case)


def test_the_three_numbers() -> None:
    wanted = np.array([[3.0, -4.0]])
    found = errors(np.array([[3.0, -3.0]], np.float32), wanted)
    assert found.squared == pytest.approx(1 / 25)
    assert found.largest == pytest.approx(1 / np.sqrt(12.5))
    assert found.cosine == pytest.approx(21 / (5 * np.sqrt(18)))


@pytest.mark.parametrize("causal", [False, True])
def test_the_exact_answer_row_by_row(causal: bool) -> None:
    case = Case("", 1, 2, 1, 8, 5, 9, causal)
    o = make_operands(case)
    for head, row in np.ndindex(2, 5):
        last = row + 4 if causal else 8
        scores = o.key[0, 0, : last + 1].astype(float) @ o.query[0, head, row].astype(float)
        weights = np.exp(scores * case.scale)
        expected = weights @ o.value[0, 0, : last + 1] / weights.sum()
        np.testing.assert_allclose(exact(case, o)[0, head, row], expected, rtol=1e-12)


def bounds(rows: Rows, form: str) -> dict[str, float]:
    """The worst NMSE of a format for each input."""
    worst: dict[str, float] = {}
    for (name, _, _), found in rows.items():
        worst[name] = max(worst.get(name, 0.0), found[form].squared)
    return worst


def test_products_keep_their_promises() -> None:
    cases = [Case("", 1, 2, 1, 64, 96, 96, causal) for causal in (False, True)]
    rows = measure(cases, products)
    assert {name for name, _, _ in rows} == set(INPUTS)
    int8, exactly = bounds(rows, "int8"), bounds(rows, "float")
    assert max(exactly.values()) <= 1e-11
    # What the operator promises for unit-normal data holds for all but outliers in channels.
    assert max(error for name, error in int8.items() if name != "outlier channels") <= 5e-4
    rotated = bounds(rows, "int8, rotated")
    assert rotated["outlier channels"] < int8["outlier channels"] / 4


def test_caches_rank_as_their_bits() -> None:
    rows = measure([Case("", 1, 4, 2, 64, 4, 320, True, decode=True)], caches)
    normal = {form: bounds(rows, form)["normal"] for form in next(iter(rows.values()))}
    order = ["float32", "int8, token", "int8, channel", "fp8 e4m3", "fp8 e5m2", "int4"]
    assert sorted(normal, key=normal.__getitem__) == order
    assert normal["float32"] <= 1e-11
    assert normal["int8, token"] <= 5e-4


def test_the_page_has_every_input() -> None:
    section = PAGE.read_text().split("## Errors of every format", 1)[1].split("\n## ", 1)[0]
    named = re.findall(r"^\| ([a-zV, 1]+) \| \d+ \| (?:full|causal) \|", section, re.MULTILINE)
    assert set(named) == set(INPUTS)
