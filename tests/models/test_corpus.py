"""The text, its division, and the perplexity measured on it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.corpus import (
    addresses,
    byte_tokens,
    heldout_excerpts,
    heldout_text,
    split,
    token_blocks,
)
from models.perplexity import perplexity


def test_no_address_is_in_both_parts() -> None:
    texts = {f"{1790 + i}": f"text {i}" for i in range(50)}
    training, held = split(texts)
    assert not set(training) & set(held)
    assert training | held == texts
    assert len(held) == 4


def test_excerpts_end_with_a_sentence_and_span_the_years() -> None:
    held = {str(year): f"{year} says. " * 1000 for year in range(1800, 1805)}
    excerpts = heldout_excerpts(held).strip().split("\n\n")
    assert [excerpt[:4] for excerpt in excerpts] == ["1800", "1804", "1801", "1803", "1802"]
    assert all(excerpt.endswith("says.") and len(excerpt) <= 5000 for excerpt in excerpts)


def test_carried_text_is_large_enough_to_judge_on() -> None:
    assert len(byte_tokens(heldout_text())) >= 60_000


def test_blocks_are_whole_and_do_not_overlap() -> None:
    blocks = token_blocks(np.arange(10), 4)
    np.testing.assert_array_equal(blocks, [[0, 1, 2, 3], [4, 5, 6, 7]])


def test_perplexity_of_a_model_that_knows_nothing_is_its_vocabulary() -> None:
    blocks = np.arange(12).reshape(3, 4)
    figure = perplexity(lambda ids: np.zeros((*ids.shape, 17), np.float32), blocks)
    assert figure == pytest.approx(17)


def test_perplexity_looks_one_token_ahead() -> None:
    """A model sure that the next token is one more, right two times in three."""

    def logits_of(ids: np.ndarray) -> np.ndarray:
        return np.log(np.where(np.arange(9) == ids[..., None] + 1, 0.6, 0.05)).astype(np.float32)

    figure = perplexity(logits_of, np.array([[3, 4, 5, 0]]))
    assert figure == pytest.approx(math.exp(-(2 * math.log(0.6) + math.log(0.05)) / 3), rel=1e-6)


@pytest.mark.models
def test_carried_text_is_what_the_package_gives_and_was_never_trained_on() -> None:
    training, held = split(addresses())
    assert heldout_excerpts(held) == heldout_text()
    everything = "\n".join(training.values())
    for excerpt in heldout_text().split("\n\n"):
        assert excerpt[:200] not in everything
