"""Softcap, sinks and windows cost no accuracy."""

from tests.reference.extensions import cases


def test_none_is_worse_than_plain_attention() -> None:
    errors = {case.name: case.error() for case in cases()}
    plain = {words: errors[f"plain, scores {words}"] for words in ("1x", "4x")}
    for name, error in errors.items():
        assert error < 1.1 * plain["4x" if name.endswith("4x") else "1x"], name
    assert max(errors.values()) <= 5e-4
