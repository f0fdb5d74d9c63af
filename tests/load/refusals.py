"""How every refusal must look, whatever it refuses."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from qfa_passes.errors import QfaError


@contextmanager
def refused(kind: type[QfaError], *words: str, exit_code: int = 5) -> Iterator[None]:
    """Expects an error of exactly this kind: coded, with a hint, naming ``words``, safe for a terminal."""
    with pytest.raises(QfaError) as caught:
        yield
    error = caught.value
    text = str(error)
    assert type(error) is kind, text
    assert error.exit_code == exit_code
    assert text.startswith(error.code + " ")
    assert error.hint, f"no advice in: {text}"
    for word in words:
        assert word in text, f"{word!r} is missing in: {text}"
    assert all(character.isprintable() or character == "\n" for character in text), repr(text)
    assert len(text) < 2000
