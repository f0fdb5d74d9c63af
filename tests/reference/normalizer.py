"""Two normalizers for quantized softmax weights; run as a module, it prints their errors.

The weights of a row in a block of 64 keys, times the scales of V, are rounded to uint8. The row is
then divided by the sum of the weights: either of the weights before rounding, or of the rounded
codes, each divided by its V scale again. This is an independent float64 calculation; apart from
rounding Q, K, V and the weights it is exact.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from qfa_passes.quant.attention import Masking, attention_float64

Array = npt.NDArray[np.float64]
BLOCK = 64
ROWS, CHANNELS = 32, 64


@dataclass(frozen=True)
class Case:
    """One attention head: Q (S, D), already scaled, K (T, D) and V (T, D)."""

    name: str
    query: Array
    key: Array
    value: Array
    causal: bool = False

    def exact(self) -> Array:
        """Returns float64 attention (S, D)."""
        q, k, v = (x[None, None] for x in (self.query, self.key, self.value))
        return attention_float64(q, k, v, scale=1.0, masking=Masking(causal=self.causal))[0, 0]


def cases(seed: int = 0) -> Iterator[Case]:
    """Yields data on which the two normalizers could differ."""
    rng = np.random.default_rng(seed)

    def head(length: int, sharpness: float = 1.0) -> tuple[Array, Array, Array]:
        q, k, v = (rng.standard_normal((n, CHANNELS)) for n in (ROWS, length, length))
        return q * sharpness / np.sqrt(CHANNELS), k, v

    def block_sinks(gain: float, spread: float, mean: float) -> tuple[Array, Array, Array]:
        """Key 0 of each block scores ``gain`` nats above the rest, which vary by ``spread``."""
        q, k, v = head(2048, spread)
        q[:, 0], k[:, 0] = 1.0, 0.0
        k[::BLOCK, 0] = gain
        return q, k, v + mean

    yield Case("unit normal, T=1024", *head(1024))
    yield Case("unit normal, scores 4x, T=1024", *head(1024, 4.0))
    q, k, v = head(1024)
    yield Case("V rows of magnitude 1e-3 to 1e3", q, k, v * 10 ** rng.uniform(-3, 3, (1024, 1)))
    for tiny in (1e-2, 1e-4):
        q, k, v = head(1024)
        q[:, 0], k[:, 0] = 1.0, 0.0
        k[0, 0] = 6.0
        v[0] *= tiny
        yield Case(f"sink of 6 nats in key 0, its V times {tiny:g}", q, k, v)
    for gain, spread, mean in product((5.0, 6.3, 7.0), (0.05, 1.0), (0.0, 2.0)):
        name = (
            f"tail {gain:g} nats below one key of each block, spread {spread:g}, mean of V {mean:g}"
        )
        yield Case(name, *block_sinks(gain, spread, mean))


def _codes(x: Array) -> tuple[Array, Array]:
    step = np.abs(x).max(axis=-1, keepdims=True) / 127
    return np.rint(x / step), step


def both_normalizers(case: Case) -> tuple[Array, Array]:
    """Returns outputs (S, D) divided by the sum of unrounded and of rounded weights."""
    (qc, qs), (kc, ks), (vc, vs) = (_codes(x) for x in (case.query, case.key, case.value))
    scores = (qc * qs) @ (kc * ks).T
    if case.causal:
        scores = np.where(np.tri(*scores.shape, dtype=bool), scores, -np.inf)
    scores -= scores.max(axis=-1, keepdims=True)
    numerator = np.zeros_like(case.query)
    unrounded = np.zeros((len(numerator), 1))
    rounded = np.zeros_like(unrounded)
    for start in range(0, len(kc), BLOCK):
        block = slice(start, start + BLOCK)
        weights = np.exp(scores[:, block]) * vs[block, 0]
        unit = weights.max(axis=-1, keepdims=True) / 255
        unit[unit == 0] = 1  # a block that the row does not see
        codes = np.rint(weights / unit)
        numerator += codes * unit @ vc[block]
        unrounded += (weights / vs[block, 0]).sum(axis=-1, keepdims=True)
        rounded += (codes * unit / vs[block, 0]).sum(axis=-1, keepdims=True)
    return numerator / unrounded, numerator / rounded


def nmse(approximate: npt.NDArray[np.floating], exact: Array) -> float:
    """Returns the squared error relative to the squared signal."""
    return float(np.sum((approximate - exact) ** 2) / np.sum(exact**2))


def main() -> None:
    """Prints the table of docs/quantization.md."""
    print("| data | NMSE, sum of unrounded weights | NMSE, sum of rounded codes |\n|---|---|---|")
    for case in cases():
        exact = case.exact()
        first, second = (nmse(output, exact) for output in both_normalizers(case))
        print(f"| {case.name} | {first:.1e} | {second:.1e} |")


if __name__ == "__main__":
    main()
