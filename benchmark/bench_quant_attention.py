"""Attention in int8 against every attention that is installed: prefill and decoding.

    python -m benchmark.bench_quant_attention [--quick] [--threads N] [--isa avx2] [--plot FILE.svg] [--json FILE]
    python -m benchmark.bench_quant_attention --write-docs

Everyone computes the same numbers in one process, in turns; ratios are medians over rounds with their quartiles; every
result is held against float64. In the same process the limits of the machine are measured. `--write-docs` measures one
thread, two threads, and one thread held to AVX2, and rewrites the tables in docs/performance.md.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from benchmark.attention.case import Case
from benchmark.attention.docs_page import PAGE, PLOT, write_page
from benchmark.attention.goals import judge
from benchmark.attention.lanes import HELD, HOLDABLE, LIBRARIES, run_lane
from benchmark.attention.plan import Plan
from benchmark.attention.report import (
    absent_table,
    accuracy_table,
    decode_peers_table,
    decode_table,
    goals_table,
    limits_table,
    prefill_peers_table,
    prefill_table,
    scratch_table,
    variants_table,
)
from benchmark.attention.results import Lane, read_lanes, write_lanes
from benchmark.attention.shapes import (
    HEADS,
    decode_cases,
    held_cases,
    prefill_cases,
    quick_cases,
    thread_cases,
)


def main() -> None:
    """Parses options, measures, prints the tables."""
    options = _options()
    if options.from_json:
        lanes = [lane for path in options.from_json for lane in read_lanes(path)]
    else:
        lanes = []
        for plan in _plans(options):
            lanes.append(run_lane(plan))
            if options.json:
                write_lanes(options.json, lanes)
    _print_report(lanes)
    if options.plot or options.write_docs:
        from benchmark.attention.plots import plot_growth

        for path in filter(None, (options.plot, PLOT if options.write_docs else None)):
            plot_growth(lanes, path)
    if options.write_docs:
        write_page(PAGE, lanes)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="ten cases, three minutes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--isa",
        choices=tuple(HELD),
        default="",
        help="hold everyone to this instruction set; whom nothing can hold takes no part",
    )
    parser.add_argument("--kind", choices=("prefill", "decode", "both"), default="both")
    parser.add_argument("--heads", default="", help=f"some of {','.join(HEADS)}")
    parser.add_argument("--lengths", default="", help="S of prefill and T of decode, with commas")
    parser.add_argument("--libraries", default="", help=f"some of {','.join(LIBRARIES)}")
    parser.add_argument("--only", default="", help="beginnings of names, with commas")
    parser.add_argument("--budget", type=float, help="seconds for the rounds of one case")
    parser.add_argument("--patience", type=float, help="seconds that one call may take")
    parser.add_argument("--rounds", type=int, default=11, help="rounds at most")
    parser.add_argument("--json", type=Path, help="keep all times here")
    parser.add_argument("--from-json", type=Path, nargs="+", help="report on kept times instead")
    parser.add_argument("--plot", type=Path, help="growth over S and T, .svg or .png")
    parser.add_argument("--write-docs", action="store_true", help=f"all lanes; rewrites {PAGE}")
    return parser.parse_args()


def _plans(options: argparse.Namespace) -> list[Plan]:
    libraries = tuple(options.libraries.split(",")) if options.libraries else LIBRARIES
    if not options.write_docs:
        cases = _cases(options)
        name = f"{options.isa or 'native'}, {options.threads} thread{'s'[: options.threads - 1]}"
        if options.isa:
            libraries = tuple(name for name in libraries if name in HOLDABLE)
        return [_plan(options, name, options.threads, options.isa, cases, libraries)]
    plans = [_plan(options, "native, 1 thread", 1, "", _cases(options), libraries)]
    if (os.cpu_count() or 1) > 1:
        cases = quick_cases() if options.quick else thread_cases()
        plans.append(_plan(options, "native, 2 threads", 2, "", cases, libraries))
    held = tuple(name for name in libraries if name in HOLDABLE)
    cases = quick_cases() if options.quick else held_cases()
    plans.append(_plan(options, "avx2, 1 thread", 1, "avx2", cases, held))
    return plans


def _cases(options: argparse.Namespace) -> list[Case]:
    if options.quick:
        cases = quick_cases()
    else:
        models = options.heads.split(",") if options.heads else list(HEADS)
        lengths = [int(length) for length in options.lengths.split(",") if length]
        cases = prefill_cases(models, lengths) + decode_cases(models, lengths)
    return [
        case
        for case in cases
        if options.kind == "both" or case.decode == (options.kind == "decode")
    ]


def _plan(
    options: argparse.Namespace,
    name: str,
    threads: int,
    held: str,
    cases: Sequence[Case],
    libraries: tuple[str, ...],
) -> Plan:
    quick = options.quick
    return Plan(
        name=name,
        threads=threads,
        held=held,
        cases=tuple(cases),
        libraries=libraries,
        only=tuple(filter(None, options.only.split(","))),
        budget=options.budget or (4.0 if quick else 6.0),
        fewest=min(options.rounds, 3),
        most=options.rounds,
        patience=options.patience or (1.0 if quick else 2.5),
    )


def _print_report(lanes: Sequence[Lane]) -> None:
    sections = {
        "Limits of the machine, measured in the same run": limits_table(lanes),
        "Prefill: int8 from float32, the kernel alone": prefill_table(lanes),
        "Prefill: time of each peer / ours (above 1: ours is faster)": prefill_peers_table(lanes),
        "Prefill: our other ways / the kernel in int8 from float32": variants_table(lanes),
        "Decoding: the kernel, caches that it appends to": decode_table(lanes),
        "Decoding: time of each peer / ours with an int8 cache": decode_peers_table(lanes),
        "Errors against float64, in the same run": accuracy_table(lanes),
        "Scratch memory of the kernel": scratch_table(lanes),
        "Who took no part": absent_table(lanes),
        "Goals": goals_table(judge(lanes)),
    }
    for title, text in sections.items():
        print(f"\n## {title}\n\n{text}")


if __name__ == "__main__":
    main()
