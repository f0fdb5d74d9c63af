"""Text to blocks of tokens."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfa_passes.errors import InvalidDataError, LimitExceededError, UsageError
from qfa_passes.verify import text as text_module
from qfa_passes.verify.text import blocks, read_tokens


def text_file(folder: Path, text: str, name: str = "text.txt") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@given(st.integers(2, 200), st.integers(2, 40), st.none() | st.integers(1, 9))
def test_blocks_are_the_text_in_order(length: int, context: int, samples: int | None) -> None:
    numbers = np.arange(length)
    found = blocks(numbers, context, samples, "x")
    assert np.array_equal(found.ravel(), numbers[: found.size])
    rows = 1 if length < context else length // context
    assert found.shape[0] == (rows if samples is None else min(rows, samples))
    assert found.shape[1] == min(length, context)


def test_one_token_per_byte_not_per_character(tmp_path: Path) -> None:
    assert read_tokens(text_file(tmp_path, "é€"), "bytes").tolist() == list("é€".encode())


def test_only_as_much_as_needed(tmp_path: Path) -> None:
    assert read_tokens(text_file(tmp_path, "abcdef"), "bytes", 3).tolist() == [97, 98, 99]


def word_tokenizer(folder: Path) -> str:
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.models.WordLevel({"[UNK]": 0, "good": 1, "day": 2}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder / "tokenizer.json")


def test_tokenizer_file(tmp_path: Path) -> None:
    path = text_file(tmp_path, "good day sir")
    assert read_tokens(path, word_tokenizer(tmp_path)).tolist() == [1, 2, 0]


def test_the_start_of_a_long_text_is_enough(tmp_path: Path) -> None:
    path = text_file(tmp_path, "good day " * 20_000)
    assert read_tokens(path, word_tokenizer(tmp_path), 100).tolist() == [1, 2] * 50


def test_a_tokenizer_that_cuts_texts_is_told_not_to(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    name = word_tokenizer(tmp_path)
    tokenizer = tokenizers.Tokenizer.from_file(name)
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=8)
    tokenizer.save(name)
    path = text_file(tmp_path, "good day good day")
    assert read_tokens(path, name).tolist() == [1, 2, 1, 2]


def test_missing_and_broken_tokenizers(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    path = text_file(tmp_path, "abc")
    with pytest.raises(UsageError, match="no tokenizer"):
        read_tokens(path, str(tmp_path / "none.json"))
    with pytest.raises(InvalidDataError, match="is no tokenizer"):
        read_tokens(path, str(text_file(tmp_path, "{}", "broken.json")))


def test_text_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidDataError, match="UTF-8"):
        read_tokens(path, "bytes")
    with pytest.raises(InvalidDataError, match="cannot be read"):
        read_tokens(tmp_path / "missing.txt", "bytes")


def test_text_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "_MAX_TEXT", 10)
    with pytest.raises(LimitExceededError):
        read_tokens(text_file(tmp_path, "x" * 11), "bytes")


@pytest.mark.parametrize("size", [0, 1])
def test_too_few_tokens(size: int) -> None:
    with pytest.raises(InvalidDataError, match="too few"):
        blocks(np.zeros(size, np.int64), 4, None, "x")
