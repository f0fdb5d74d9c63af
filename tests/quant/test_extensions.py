"""Softcap, sinks and windows cost no accuracy."""

import pytest

from tests.reference.extensions import Case, cases


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_within_the_bound(case: Case) -> None:
    assert case.error() <= 5e-4


def test_none_is_worse_than_plain_attention() -> None:
    errors = {case.name: case.error() for case in cases()}
    plain = {words: errors[f"plain, scores {words}"] for words in ("1x", "4x")}
    for name, error in errors.items():
        assert error < 1.1 * plain["4x" if name.endswith("4x") else "1x"], name
