"""Runs in turns."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Final

Run = Callable[[], object]

_LONG: Final = 0.02
"""Seconds of a call beside which filling the caches of the processor takes no time."""


def in_turns(
    runs: Sequence[Run],
    once: Sequence[float],
    *,
    budget: float,
    rounds: tuple[int, int],
    shortest: float = 0.004,
) -> list[list[float]]:
    """Seconds per call of each run in each round.

    In every round each run has its turn, in another order every time. A turn begins with a call that is not timed, so
    that nobody pays for what the one before left in the caches; where calls are long that does not matter, and is
    left out. Short ones are repeated to at least ``shortest`` seconds.

    Args:
        runs: What is timed.
        once: About how many seconds a call of each takes.
        budget: Seconds that all rounds may take, unless they are fewer than the fewest.
        rounds: The fewest and the most.
        shortest: Seconds of a turn.
    """
    repeats = [max(1, round(shortest / max(seconds, 1e-7))) for seconds in once]
    warm = [seconds < _LONG for seconds in once]
    a_round = sum(
        (calls + first) * seconds for calls, first, seconds in zip(repeats, warm, once, strict=True)
    )
    count = max(rounds[0], min(rounds[1], int(budget / max(a_round, 1e-9))))
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(count):
        for index in random.Random(turn).sample(range(len(runs)), len(runs)):
            run, calls = runs[index], repeats[index]
            if warm[index]:
                run()
            start = time.perf_counter()
            for _ in range(calls):
                run()
            times[index].append((time.perf_counter() - start) / calls)
    return times
