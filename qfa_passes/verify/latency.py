"""How long two models take for the same input, timed in turns: both meet the same machine."""

import statistics
import time
from collections.abc import Callable

from qfa_passes.core.comparison import Latency


def time_in_turns(
    run_a: Callable[[], object], run_b: Callable[[], object], runs: int, shape: str
) -> Latency:
    """Times two functions A, B, A, B ... after one unmeasured call of each."""
    run_a()
    run_b()
    seconds_a, seconds_b = [], []
    for _ in range(runs):
        seconds_a.append(_seconds(run_a))
        seconds_b.append(_seconds(run_b))
    return Latency(statistics.median(seconds_a), statistics.median(seconds_b), runs, shape)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
