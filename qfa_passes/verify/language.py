"""What quantization does to a language model: perplexity, divergence and agreement."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from qfa_passes.core.comparison import LanguageComparison

_CHUNK_ELEMENTS = 1 << 20
"""Logits handled at a time: a few tens of megabytes of float64 temporaries at any vocabulary."""

_NORMAL_95 = 1.959964


@dataclass(slots=True)
class LanguageAccumulator:
    """Gathers three numbers per predicted token, so logits of any number of blocks can pass by."""

    _loss_a: list[npt.NDArray[np.float64]] = field(default_factory=list)
    _loss_b: list[npt.NDArray[np.float64]] = field(default_factory=list)
    _divergence: list[npt.NDArray[np.float64]] = field(default_factory=list)
    _agree: int = 0

    def update(
        self, logits_a: npt.ArrayLike, logits_b: npt.ArrayLike, targets: npt.ArrayLike
    ) -> None:
        """Adds N predictions over V tokens: logits (N, V) twice and the true tokens (N)."""
        first, second = np.asarray(logits_a), np.asarray(logits_b)
        wanted = np.asarray(targets)
        if first.shape != second.shape or first.shape[:1] != wanted.shape or first.ndim != 2:
            raise ValueError(f"shapes do not fit: {first.shape}, {second.shape}, {wanted.shape}")
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < first.shape[1]:
            raise ValueError(f"a target lies outside the vocabulary of {first.shape[1]} tokens")
        rows = max(1, _CHUNK_ELEMENTS // first.shape[1])
        for start in range(0, first.shape[0], rows):
            piece = slice(start, start + rows)
            self._add(first[piece], second[piece], wanted[piece])

    def _add(
        self,
        logits_a: npt.NDArray[np.generic],
        logits_b: npt.NDArray[np.generic],
        targets: npt.NDArray[np.generic],
    ) -> None:
        log_a, log_b = log_softmax(logits_a), log_softmax(logits_b)
        at = (np.arange(len(targets)), targets.astype(np.int64))
        self._loss_a.append(-log_a[at])
        self._loss_b.append(-log_b[at])
        self._agree += int(np.count_nonzero(log_a.argmax(1) == log_b.argmax(1)))
        with np.errstate(invalid="ignore"):  # -inf - -inf, put right below
            np.subtract(log_a, log_b, out=log_b)
        np.exp(log_a, out=log_a)
        # A token that A excludes (-inf) adds nothing, and 0 * inf must not become NaN.
        log_b[log_a == 0] = 0
        divergence = np.einsum("nv,nv->n", log_a, log_b)
        # Rounding leaves -1e-17 where the distributions are equal; NaN must stay NaN.
        self._divergence.append(np.where(divergence < 0, 0.0, divergence))

    def result(self) -> LanguageComparison:
        """Returns the measures of all predictions added so far (at least one).

        Raises:
            ValueError: Nothing was added.
        """
        if not self._divergence:
            raise ValueError("no predictions to compare")
        loss_a, loss_b = np.concatenate(self._loss_a), np.concatenate(self._loss_b)
        divergence = np.concatenate(self._divergence)
        delta = loss_b - loss_a
        mean = float(delta.mean())
        spread = float(delta.std(ddof=1) / np.sqrt(delta.size)) if delta.size > 1 else np.inf
        with np.errstate(over="ignore"):
            return LanguageComparison(
                tokens=int(delta.size),
                perplexity_a=float(np.exp(loss_a.mean())),
                perplexity_b=float(np.exp(loss_b.mean())),
                change=float(np.expm1(mean)),
                change_low=float(np.expm1(mean - _NORMAL_95 * spread)),
                change_high=float(np.expm1(mean + _NORMAL_95 * spread)),
                kld_mean=float(divergence.mean()),
                kld_p99=float(np.quantile(divergence, 0.99)),
                kld_max=float(divergence.max()),
                top1=self._agree / delta.size,
            )


def log_softmax(logits: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Returns the logarithm of softmax over the last axis, (N, V) to (N, V) in float64."""
    shifted = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # NaN logits yield NaN, which the guard fails
        shifted -= shifted.max(axis=-1, keepdims=True)
        shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted
