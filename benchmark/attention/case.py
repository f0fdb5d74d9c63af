"""What is computed: extents, operands, and the right answer in float64."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_DISTINCT_TOKENS = 16_384
"""Longer caches repeat their tokens: normal numbers take longer to make than the attention that is measured."""


@dataclass(frozen=True, slots=True)
class Case:
    """One shape.

    Attributes:
        model: Where such heads are found.
        batch: B.
        heads: H.
        kv_heads: Hkv.
        channels: D, of keys and of values.
        queries: S.
        keys: T, all keys that the queries may see.
        causal: Whether query i stands at the position i + T - S and sees nothing behind it.
        decode: Whether the keys are those of a cache, the S last ones new.
    """

    model: str
    batch: int
    heads: int
    kv_heads: int
    channels: int
    queries: int
    keys: int
    causal: bool
    decode: bool = False

    @property
    def group(self) -> int:
        """G, the query heads that share a key/value head."""
        return self.heads // self.kv_heads

    @property
    def scale(self) -> float:
        """What the products are multiplied with."""
        return float(self.channels**-0.5)

    @property
    def mask(self) -> str:
        """The mask in a word."""
        return "causal" if self.causal else "full"

    @property
    def label(self) -> str:
        """A short name that no other case has."""
        extents = f"{self.heads}/{self.kv_heads} D={self.channels}"
        if self.decode:
            return f"{extents} B={self.batch} S={self.queries} T={self.keys}"
        return f"{extents} S={self.queries} {self.mask}"

    @property
    def flops(self) -> float:
        """Multiplications and additions of both products over the keys that are seen (half of them if causal)."""
        seen = self.queries * self.keys
        if self.causal and self.queries == self.keys:
            seen //= 2
        return 4.0 * self.batch * self.heads * seen * self.channels

    @property
    def cache_numbers(self) -> int:
        """How many numbers the keys and values are."""
        return 2 * self.batch * self.kv_heads * self.keys * self.channels


@dataclass(frozen=True, slots=True)
class Operands:
    """Q (B, H, S, D), K and V (B, Hkv, T, D), unit-normal float32."""

    query: Array
    key: Array
    value: Array

    def expanded(self, group: int) -> tuple[Array, Array]:
        """K and V with their heads repeated, for peers that know no groups."""
        return tuple(  # type: ignore[return-value]
            np.repeat(array, group, axis=1) for array in (self.key, self.value)
        )


def make_operands(case: Case, seed: int = 0) -> Operands:
    """The operands of a case, always the same."""
    random = np.random.default_rng(seed)
    tokens = min(case.keys, _DISTINCT_TOKENS)
    query = random.standard_normal(
        (case.batch, case.heads, case.queries, case.channels), dtype=np.float32
    )
    key, value = (
        random.standard_normal((case.batch, case.kv_heads, tokens, case.channels), dtype=np.float32)
        for _ in range(2)
    )
    if tokens < case.keys:
        repeats = -(-case.keys // tokens)
        key, value = (
            np.tile(array, (1, 1, repeats, 1))[:, :, : case.keys] for array in (key, value)
        )
    return Operands(query, np.ascontiguousarray(key), np.ascontiguousarray(value))


def checked_rows(case: Case, rows: int = 8) -> Array:
    """Query rows that are held against float64: spread over the sequence, the last one among them."""
    return np.unique(np.linspace(0, case.queries - 1, min(rows, case.queries)).astype(int))


def exact(case: Case, operands: Operands) -> Array:
    """Attention in float64, (B, H, rows, D), of the rows that are checked."""
    rows = checked_rows(case)
    offset = case.keys - case.queries if case.causal else 0
    visible = np.arange(case.keys) <= (rows + offset)[:, None]
    result = np.empty((case.batch, case.heads, len(rows), case.channels))
    for batch in range(case.batch):
        for head in range(case.kv_heads):
            key = operands.key[batch, head].astype(np.float64)
            value = operands.value[batch, head].astype(np.float64)
            members = slice(head * case.group, (head + 1) * case.group)
            query = operands.query[batch, members][:, rows].astype(np.float64)
            scores = query @ key.T * case.scale
            if case.causal:
                scores = np.where(visible, scores, -np.inf)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            result[batch, members] = weights / weights.sum(axis=-1, keepdims=True) @ value
    return result


def largest_weight(case: Case, operands: Operands) -> float:
    """What a calibration would find to be the largest weight of the softmax."""
    if case.causal and case.queries == case.keys:
        return 1.0  # The first query sees one key.
    rows = checked_rows(case, 64)
    scores = operands.query[0, 0, rows] @ operands.key[0, 0].T * np.float32(case.scale)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return float((weights / weights.sum(axis=-1, keepdims=True)).max())


def normalized_error(got: Array, wanted: Array) -> float:
    """Mean squared error relative to the mean square; infinite where something is no number."""
    error = float(np.sum((got.astype(np.float64) - wanted) ** 2) / np.sum(wanted**2))
    return error if np.isfinite(error) else float("inf")


@functools.cache
def causal_mask(queries: int, keys: int) -> Array:
    """Float32 (S, T): 0 where a query may look, else -inf; the last query sees every key."""
    visible = np.tri(queries, keys, keys - queries, dtype=bool)
    return np.where(visible, np.float32(0), np.float32(-np.inf))
