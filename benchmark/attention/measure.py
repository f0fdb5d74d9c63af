"""One process that measures: all contestants of each case in turns, with one number of threads and one instruction set.

    python -m benchmark.attention.measure PLAN.json

benchmark/attention/lanes.py starts it, with an environment that libraries read when they are loaded.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from benchmark.attention import (
    kernel,
    onnx_operator,
    onnxruntime_decode,
    onnxruntime_peers,
    openvino_peers,
    torch_peers,
)
from benchmark.attention.case import Case, checked_rows, exact, make_operands, normalized_error
from benchmark.attention.contestant import Absent, Contestant, Entry, Field
from benchmark.attention.environment import describe
from benchmark.attention.interleave import in_turns
from benchmark.attention.limits import measure_peaks, measure_reading
from benchmark.attention.plan import Plan, read_plan
from benchmark.attention.report import case_line
from benchmark.attention.results import CaseResult, Lane, Timing, write_lanes
from benchmark.attention.scratch import measure_scratch

_PREFILL: dict[str, tuple[Field, ...]] = {
    "ours": (kernel.prefill, onnx_operator.prefill),
    "torch": (torch_peers.prefill,),
    "onnxruntime": (onnxruntime_peers.prefill,),
    "openvino": (openvino_peers.prefill,),
}
_DECODE: dict[str, tuple[Field, ...]] = {
    "ours": (kernel.decode, onnx_operator.decode),
    "torch": (torch_peers.decode,),
    "onnxruntime": (onnxruntime_decode.decode,),
    "openvino": (openvino_peers.decode,),
}


def main() -> None:
    """Measures what the plan asks for; prints as it goes, and keeps the numbers where the plan says."""
    faulthandler.enable()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    plan = read_plan(Path(sys.argv[1]))
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, processors[-plan.threads :])
    facts = describe(plan)
    print(f"-- {plan.name}: {', '.join(f'{name} {value}' for name, value in facts.items())}")
    lane = Lane(
        plan.name,
        facts["instruction set"],
        plan.threads,
        facts,
        measure_peaks(plan.threads),
        measure_reading(plan.threads),
        (),
        tuple(measure_scratch(plan.threads)),
    )
    write_lanes(Path(plan.output), [lane])
    for case in plan.cases:
        start = time.perf_counter()
        result = measure_case(case, plan)
        print(f"{case_line(result)}  [{time.perf_counter() - start:.0f} s]", flush=True)
        # What is done is kept, whatever happens to the next one.
        lane = replace(lane, cases=(*lane.cases, result))
        write_lanes(Path(plan.output), [lane])
        gc.collect()


def measure_case(case: Case, plan: Plan) -> CaseResult:
    """Makes all contestants, holds each one's result against float64, and times those that run, in turns."""
    operands = make_operands(case)
    wanted = exact(case, operands)
    fields = _DECODE if case.decode else _PREFILL
    entries = (
        entry
        for library in plan.libraries
        for field in fields[library]
        for entry in field(case, operands, plan.threads)
    )
    contestants: list[Contestant] = []
    once: list[float] = []
    errors: list[float] = []
    absent: dict[str, str] = {}
    for entry in _chosen(entries, plan):
        made = entry if isinstance(entry, Absent) else _made(entry.name, entry.make)
        if isinstance(made, Absent):
            absent[made.name] = made.reason
            continue
        tried = _tried(made, case, wanted, plan.patience)
        if isinstance(tried, str):
            absent[made.name] = tried
            continue
        contestants.append(made)
        once.append(tried[0])
        errors.append(tried[1])
    times = in_turns(
        [contestant.run for contestant in contestants],
        once,
        budget=plan.budget,
        rounds=(plan.fewest, plan.most),
    )
    timings = {
        contestant.name: Timing(tuple(seconds), error, error > contestant.worst, contestant.bytes)
        for contestant, seconds, error in zip(contestants, times, errors, strict=True)
    }
    return CaseResult(case, timings, absent)


def _chosen(entries: Iterable[Entry], plan: Plan) -> Iterator[Entry]:
    """All entries, or those whose names begin with what the plan asks for."""
    return (entry for entry in entries if entry.name.startswith(tuple(plan.only) or ""))


def _made(name: str, make: object) -> Contestant | Absent:
    try:
        return make()  # type: ignore[no-any-return, operator]
    except Exception as error:
        return Absent(name, brief(error))


def _tried(
    contestant: Contestant, case: Case, wanted: object, patience: float
) -> tuple[float, float] | str:
    """Seconds of a call and the error of the first result; or why it takes no part."""
    try:
        start = time.perf_counter()
        contestant.run()
        first = time.perf_counter() - start
        error = float("nan")
        if contestant.output is not None:
            error = normalized_error(contestant.output()[:, :, checked_rows(case)], wanted)  # type: ignore[arg-type]
        if first > patience:
            return f"a call takes {first:.1f} s"
        start = time.perf_counter()
        contestant.run()
        return min(first, time.perf_counter() - start), error
    except Exception as error:
        return brief(error)


def brief(error: BaseException) -> str:
    """The last part of the first line of an error: frameworks put what they did in front of what went wrong."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split("Status Message: ")[-1][:160]


if __name__ == "__main__":
    main()
