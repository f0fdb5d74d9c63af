"""Runs in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

Run = Callable[[], object]


def in_turns(
    runs: Sequence[Run],
    once: Sequence[float],
    *,
    budget: float,
    rounds: tuple[int, int],
    shortest: float = 0.004,
) -> list[list[float]]:
    """Seconds per call of each run in each round.

    In every round each run has its turn, in an order that goes one place further with every round; short ones are
    repeated to at least ``shortest`` seconds. The first call of each turn is part of the repeats: whatever the turn
    before left in the caches is paid by all alike.

    Args:
        runs: What is timed.
        once: About how many seconds a call of each takes.
        budget: Seconds that all rounds may take, unless they are fewer than the fewest.
        rounds: The fewest and the most.
        shortest: Seconds of a turn.
    """
    repeats = [max(1, round(shortest / max(seconds, 1e-7))) for seconds in once]
    a_round = sum(count * seconds for count, seconds in zip(repeats, once, strict=True))
    count = max(rounds[0], min(rounds[1], int(budget / max(a_round, 1e-9))))
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(count):
        for place in range(len(runs)):
            index = (turn + place) % len(runs)
            run, calls = runs[index], repeats[index]
            start = time.perf_counter()
            for _ in range(calls):
                run()
            times[index].append((time.perf_counter() - start) / calls)
    return times
