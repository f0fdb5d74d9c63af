"""Int8 attention against every float32 attention of ONNX Runtime.

    python -m benchmark.bench_quant_attention [--quick] [--threads N] [--lengths 128,512,2048]

All run in one process, one after the other in each round, on the same inputs; a ratio is the median over rounds of
(time of the peer / time of ours), with the spread between the quartiles. Times alone say little on a shared machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import numpy as np

import qfa_passes
from benchmark.peers import PEERS, Run, Shape, operands, ours
from qfa_passes.runtime.environment import describe_environment, library_or_none

HEADS = ((12, 12, 64), (9, 3, 64), (32, 8, 128))


def main() -> None:
    """Parses options, measures, prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one set of heads, fewer rounds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lengths", default="128,512,2048")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    lengths = [int(length) for length in options.lengths.split(",")]
    rounds = 5 if options.quick else options.rounds
    for name, value in describe_environment(library_or_none()).items():
        print(f"{name}: {value}")
    print(
        f"threads: {options.threads}, rounds: {rounds}, library: {qfa_passes.get_library_path()}\n"
    )
    print(
        f"{'heads, channels, length':34} {'ours ms':>9} {'GFLOP/s':>8} {'NMSE':>8}  ratio to each peer (quartiles)"
    )
    for heads in HEADS[:1] if options.quick else HEADS:
        for length in lengths:
            for causal in (False, True):
                report(Shape(heads[0], heads[1], length, heads[2], causal), options.threads, rounds)


def report(shape: Shape, threads: int, rounds: int) -> None:
    """Measures one shape and prints its line."""
    mine = ours(shape, threads)
    others = {
        name: run for name, make in PEERS.items() if (run := make(shape, threads)) is not None
    }
    times = in_turns([mine, *others.values()], rounds)
    cells = []
    for name, peer in zip(others, times[1:], strict=True):
        ratios = sorted(theirs / own for own, theirs in zip(times[0], peer, strict=True))
        low, middle, high = statistics.quantiles(ratios, n=4)
        cells.append(f"{name.removeprefix('ORT ')} {middle:.2f} ({low:.2f}-{high:.2f})")
    best = [min(peers) for peers in zip(*times[1:], strict=True)]
    overall = statistics.median(theirs / own for own, theirs in zip(times[0], best, strict=True))
    own = statistics.median(times[0])
    print(
        f"{shape.label:34} {own * 1e3:9.2f} {shape.flops / own / 1e9:8.0f} {nmse(shape, mine):8.1e}  "
        f"best ORT {overall:.2f} | " + ", ".join(cells),
        flush=True,
    )


def in_turns(runs: Sequence[Run], rounds: int, shortest: float = 0.004) -> list[list[float]]:
    """Seconds per call of each run in each round; short ones are repeated to at least ``shortest`` seconds."""
    repeats = []
    for run in runs:
        run()
        start = time.perf_counter()
        run()
        repeats.append(max(1, round(shortest / max(time.perf_counter() - start, 1e-7))))
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for index, run in enumerate(runs):
            start = time.perf_counter()
            for _ in range(repeats[index]):
                run()
            times[index].append((time.perf_counter() - start) / repeats[index])
    return times


def nmse(shape: Shape, run: Run, rows: int = 64) -> float:
    """Error of a run against float64 attention, on the last rows of every head."""
    q, k, v = (array.astype(np.float64) for array in operands(shape))
    group = shape.heads // shape.kv_heads
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scores = q[:, :, -rows:] @ k.transpose(0, 1, 3, 2) * shape.channels**-0.5
    if shape.causal:
        scores[:, :, ~np.tri(shape.length, dtype=bool)[-rows:]] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    wanted = weights / weights.sum(axis=-1, keepdims=True) @ v
    got = run()[:, :, -rows:]
    return float(np.sum((got - wanted) ** 2) / np.sum(wanted**2))


if __name__ == "__main__":
    main()
