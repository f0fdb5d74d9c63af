"""Perplexity, divergence and agreement against torch in float64."""

import numpy as np
import pytest

from qfa_passes.verify import language
from qfa_passes.verify.language import LanguageAccumulator


def predictions(tokens: int = 50, vocabulary: int = 40, noise: float = 0.3) -> tuple:
    generator = np.random.default_rng(3)
    logits = generator.normal(scale=3, size=(tokens, vocabulary)).astype(np.float32)
    others = (logits + noise * generator.normal(size=logits.shape)).astype(np.float32)
    return logits, others, generator.integers(0, vocabulary, tokens)


def compare(*arrays: np.ndarray) -> language.LanguageComparison:
    accumulator = LanguageAccumulator()
    accumulator.update(*arrays)
    return accumulator.result()


def test_equals_torch() -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    logits, others, targets = predictions()
    a, b = (torch.from_numpy(array).double() for array in (logits, others))
    wanted = torch.from_numpy(targets)
    found = compare(logits, others, targets)
    loss_a = functional.cross_entropy(a, wanted, reduction="none").numpy()
    loss_b = functional.cross_entropy(b, wanted, reduction="none").numpy()
    kld = functional.kl_div(b.log_softmax(-1), a.log_softmax(-1), reduction="none", log_target=True)
    kld = kld.sum(-1).numpy()
    assert found.tokens == 50
    assert found.perplexity_a == pytest.approx(np.exp(loss_a.mean()), rel=1e-12)
    assert found.perplexity_b == pytest.approx(np.exp(loss_b.mean()), rel=1e-12)
    assert found.change == pytest.approx(found.perplexity_b / found.perplexity_a - 1, rel=1e-9)
    assert found.kld_mean == pytest.approx(kld.mean(), rel=1e-9)
    assert found.kld_p99 == pytest.approx(np.quantile(kld, 0.99), rel=1e-9)
    assert found.kld_max == pytest.approx(kld.max(), rel=1e-9)
    assert found.top1 == (a.argmax(-1) == b.argmax(-1)).double().mean().item()


def test_interval_is_the_one_of_a_paired_sample() -> None:
    stats = pytest.importorskip("scipy.stats")
    logits, others, targets = predictions(tokens=2000)
    found = compare(logits, others, targets)
    rows = np.arange(2000)

    def loss(values: np.ndarray) -> np.ndarray:
        wide = values.astype(np.float64)
        return np.log(np.exp(wide).sum(-1)) - wide[rows, targets]

    delta = loss(others) - loss(logits)
    low, high = stats.norm.interval(0.95, delta.mean(), delta.std(ddof=1) / np.sqrt(2000))
    assert found.change_low == pytest.approx(np.expm1(low), rel=1e-6)
    assert found.change_high == pytest.approx(np.expm1(high), rel=1e-6)


def test_equal_models_have_no_divergence() -> None:
    logits, _, targets = predictions()
    found = compare(logits, logits, targets)
    assert (found.change, found.kld_mean, found.kld_max, found.top1) == (0.0, 0.0, 0.0, 1.0)


def test_adding_a_constant_to_all_logits_changes_nothing() -> None:
    logits, _, targets = predictions()
    found = compare(logits, logits + 4, targets)
    assert found.kld_mean == pytest.approx(0.0, abs=1e-9)


def test_a_token_that_both_exclude_adds_nothing() -> None:
    logits, others, targets = predictions()
    targets[:] = 1
    without = compare(logits[:, 1:], others[:, 1:], targets - 1)
    logits[:, 0] = others[:, 0] = -np.inf
    found = compare(logits, others, targets)
    assert found.kld_mean == pytest.approx(without.kld_mean, rel=1e-12)


def test_nan_logits_are_not_hidden() -> None:
    logits, others, targets = predictions()
    others[3, 5] = np.nan
    found = compare(logits, others, targets)
    assert np.isnan(found.kld_mean)
    assert np.isnan(found.perplexity_b)


def test_pieces_give_the_same_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, others, targets = predictions()
    whole = compare(logits, others, targets)
    monkeypatch.setattr(language, "_CHUNK_ELEMENTS", 100)
    accumulator = LanguageAccumulator()
    for start in range(0, 50, 9):
        piece = slice(start, start + 9)
        accumulator.update(logits[piece], others[piece], targets[piece])
    assert accumulator.result() == whole


def test_memory_stays_small_at_a_large_vocabulary() -> None:
    import tracemalloc

    logits = np.zeros((128, 49152), np.float32)
    targets = np.zeros(128, np.int64)
    accumulator = LanguageAccumulator()
    tracemalloc.start()
    accumulator.update(logits, logits, targets)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20
    assert accumulator.result().perplexity_a == pytest.approx(49152)


@pytest.mark.parametrize("target", [-1, 40])
def test_targets_outside_the_vocabulary_are_refused(target: int) -> None:
    logits, others, targets = predictions()
    targets[7] = target
    with pytest.raises(ValueError, match="outside the vocabulary of 40"):
        compare(logits, others, targets)


def test_no_predictions() -> None:
    with pytest.raises(ValueError, match="no predictions"):
        LanguageAccumulator().result()
