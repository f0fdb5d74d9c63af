"""How long two models take for the same input, timed in turns: both meet the same machine."""

import statistics
import time
from collections.abc import Callable

from qfa_passes.core.comparison import Latency

_ENOUGH_RUNS = 3
_ENOUGH_SECONDS = 10.0


def time_in_turns(
    run_a: Callable[[], object], run_b: Callable[[], object], runs: int, shape: str
) -> Latency:
    """Times two functions A, B, A, B ... after one unmeasured call of each.

    Slow ones stop after three runs each, once ten seconds have passed.
    """
    run_a()
    run_b()
    seconds_a, seconds_b = [], []
    start = time.perf_counter()
    for done in range(runs):
        if done >= _ENOUGH_RUNS and time.perf_counter() - start > _ENOUGH_SECONDS:
            break
        seconds_a.append(_seconds(run_a))
        seconds_b.append(_seconds(run_b))
    medians = statistics.median(seconds_a), statistics.median(seconds_b)
    return Latency(*medians, len(seconds_a), shape)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
