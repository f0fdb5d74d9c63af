"""The physical limits of the machine, measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import numpy as np

from benchmark.attention.native import limits_library, pool

_SIZES: Final = {"L2": 512 << 10, "L3": 8 << 20, "DRAM": 512 << 20}
_SHORTEST: Final = 0.01
_TRIES: Final = 5


def measure_peaks(threads: int) -> dict[str, float]:
    """Operations per second in registers, by "set format"; 0 where the processor lacks the instruction."""
    library, peaks = limits_library(), {}
    index = 0
    while (name := library.qfa_limits_peak_name(index)) is not None:
        peaks[name.decode()] = _best_rate(
            lambda turns, index=index: library.qfa_limits_peak(pool(threads), index, turns)  # type: ignore[misc]
        )
        index += 1
    return peaks


def measure_reading(threads: int) -> dict[str, float]:
    """Bytes per second of reading a region again and again in four streams, by what holds it."""
    library, rates = limits_library(), {}
    for name, size in _SIZES.items():
        region = np.ones(size, dtype=np.uint8)

        def read(turns: int, region: np.ndarray = region) -> float:
            for _ in range(turns):
                library.qfa_limits_read(pool(threads), region.ctypes.data, region.size)
            return float(turns * region.size)

        rates[name] = _best_rate(read)
    return rates


def _best_rate(work: Callable[[int], float]) -> float:
    """The best of a few tries, each long enough for the clock."""
    turns, best = 1, 0.0
    tries = 0
    while tries < _TRIES:
        start = time.perf_counter()
        done = work(turns)
        seconds = time.perf_counter() - start
        if not done:
            return 0.0
        if seconds < _SHORTEST:
            turns *= 4
            continue
        best = max(best, done / seconds)
        tries += 1
    return best
