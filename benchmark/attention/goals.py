"""What was to be reached, held against what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from benchmark.attention.results import CaseResult, Lane, Scratch
from benchmark.attention.spread import Spread, spread
from benchmark.attention.who import FLOAT_ORT, reference

_VNNI: Final = ("avxvnni", "avx512vnni", "avx512bf16")
_UNKNOWN: Final = "not measured in this run"
_LEAST_LENGTH: Final = 512


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line: what, how much, and what came out."""

    work: str
    must: str
    goal: str
    measured: str
    outcome: str


def judge(lanes: Sequence[Lane]) -> list[Verdict]:
    """All goals; those that this machine or this run cannot tell about say so."""
    one = _lane(lanes, lambda lane: lane.threads == 1 and not lane.name.startswith("avx2"))
    two = _lane(lanes, lambda lane: lane.threads == 2)
    avx2 = _lane(lanes, lambda lane: lane.isa == "avx2" and lane.threads == 1)
    return [
        *_amx_goals(one),
        *_decode_goals(one),
        _against_torch("VNNI without AMX: prefill", one, _VNNI, 2.0, 3.0),
        _against_torch("AVX2 only: prefill, torch held to AVX2", avx2, ("avx2",), 1.0, 1.5),
        *_thread_goals(two),
        _memory(lanes),
    ]


def _amx_goals(lane: Lane | None) -> list[Verdict]:
    ratios = []
    for causal, must, goal in ((False, 2.0, 2.8), (True, 2.4, 3.2)):
        found = _ratios(
            lane, lambda r: r.ratio("torch bfloat16", "kernel int8"), _long(causal=causal)
        )
        mask = "causal" if causal else "full"
        ratios.append(_at_least(f"AMX: prefill int8 {mask} / torch bf16", found, must, goal))
    found = _ratios(
        lane,
        lambda r: r.best_ratio(FLOAT_ORT, reference(r, "ORT")),
        _long(causal=True),
    )
    ratios.append(_at_least("AMX: prefill int8 causal / best ORT attention", found, 12.0, 18.0))
    overhead = []
    for least, most, allowed in ((2048, 1 << 30, 1.15), (512, 2047, 1.35)):
        found = _ratios(
            lane,
            lambda r: r.ratio("kernel int8", "kernel int8, K and V int8 already"),
            _between(least, most),
        )
        lengths = f"S >= {least}" if most > 1 << 20 else f"S = {least}"
        overhead.append(_at_most(f"from float32 / from int8 K and V, {lengths}", found, allowed))
    if lane is not None and lane.isa == "amxint8":
        return [*ratios, *overhead]
    why = f"not measurable: no AMX here ({lane.isa})" if lane else _UNKNOWN
    foreign = [Verdict(v.work, v.must, v.goal, v.measured, why) for v in ratios]
    return [*foreign, *overhead]


def _decode_goals(lane: Lane | None) -> list[Verdict]:
    def grouped(result: CaseResult) -> bool:
        case = result.case
        return case.decode and case.model == "llama-gqa" and case.keys >= 2048 and case.queries == 1

    share = _ratios(lane, lambda r: r.ratio("reading the int8 cache", "kernel int8 cache"), grouped)
    memory = _ratios(lane, lambda r: _of_memory(lane, r), grouped)
    peer = "ORT GroupQueryAttention int8 cache"
    runtime = _ratios(lane, lambda r: r.ratio(peer, reference(r, peer)), grouped)
    alone = _ratios(lane, lambda r: r.ratio(peer, "kernel int8 cache"), grouped)
    packed = _ratios(lane, lambda r: r.ratio("kernel int8 cache", "kernel int4 cache"), grouped)
    return [
        _at_least("decode int8 cache: share of reading it", share, 0.60, 0.85, percent=True),
        _at_least("the same, of the rate of reading DRAM", memory, 0.60, 0.85, percent=True),
        _at_least("decode int8 cache / ORT int8 cache, both in ORT", runtime, 4.0, 7.0),
        _at_least("the same, the kernel alone", alone, 4.0, 7.0),
        _at_least("decode int4 cache / our int8 cache", packed, 1.2, 1.5),
    ]


def _of_memory(lane: Lane | None, result: CaseResult) -> Spread | None:
    """The rate of a step with an int8 cache over that of reading memory that no cache holds."""
    if lane is None or not result.right("kernel int8 cache"):
        return None
    ours = result.timings["kernel int8 cache"]
    return spread(ours.bytes / seconds / lane.reading["DRAM"] for seconds in ours.seconds)


def _thread_goals(lane: Lane | None) -> list[Verdict]:
    def prefill(result: CaseResult) -> bool:
        return not result.case.decode

    def decode(result: CaseResult) -> bool:
        return result.case.decode

    kinds: tuple[tuple[str, str, Callable[[CaseResult], bool]], ...] = (
        ("two threads, prefill", "kernel int8", prefill),
        ("two threads, prefill, operator in ORT", "operator int8", prefill),
        ("two threads, decode int8", "kernel int8 cache", decode),
        ("two threads, decode int8, operator in ORT", "operator int8 cache", decode),
    )
    return [
        _at_least(
            f"{work}: one thread / two",
            _ratios(lane, lambda r, n=name: r.ratio(f"{n}, 1 thread", n), kind),  # type: ignore[misc]
            1.5,
            1.8,
        )
        for work, name, kind in kinds
    ]


def _against_torch(
    work: str, lane: Lane | None, sets: tuple[str, ...], must: float, goal: float
) -> Verdict:
    if lane is not None and lane.isa not in sets:
        why = f"not measurable: runs on {lane.isa}"
        return Verdict(f"{work} / torch float32", _x(must), _x(goal), "-", why)
    found = _ratios(
        lane,
        lambda r: r.ratio("torch float32", "kernel int8"),
        lambda r: not r.case.decode and r.case.queries >= _LEAST_LENGTH,
    )
    return _at_least(f"{work} / torch float32", found, must, goal)


def _memory(lanes: Iterable[Lane]) -> Verdict:
    """Scratch must not depend on S (where T stays), and grow with T by a few bytes for each number of a head."""
    work = "memory beyond inputs and outputs"
    must = "O(threads x (block + T (D + Dv)))"
    lines = [line for lane in lanes for line in lane.scratch if line.work == "prefill"]
    if not lines:
        return Verdict(work, must, "the same", _UNKNOWN, _UNKNOWN)
    worst_queries, worst_bytes = 1.0, 0.0
    for lane in lanes:
        alone = [line for line in lane.scratch if line.work == "prefill"]
        worst_queries = max(worst_queries, query_growth(alone))
        worst_bytes = max(worst_bytes, key_growth(alone))
    measured = (
        f"S 1024 to 4096: x{worst_queries:.2f}; "
        f"{worst_bytes:.2f} bytes per thread, token and channel of K and V"
    )
    met = worst_queries <= 1.01 and worst_bytes <= 1.5
    return Verdict(work, must, "the same", measured, "met" if met else "not met")


def query_growth(lines: Iterable[Scratch]) -> float:
    """Scratch of the longest queries over that of the second longest (both long enough for every thread), T alike."""
    by_keys: dict[int, dict[int, int]] = {}
    for line in lines:
        by_keys.setdefault(line.keys, {})[line.queries] = line.bytes
    growth = [1.0]
    for found in by_keys.values():
        if len(found) > 1:
            *_, before, last = sorted(found)
            growth.append(found[last] / found[before])
    return max(growth)


def key_growth(lines: Iterable[Scratch]) -> float:
    """Bytes for each thread, key and channel of K and V between the longest two T of the shortest S."""
    lines = list(lines)
    least = min(line.queries for line in lines)
    found = sorted((line for line in lines if line.queries == least), key=lambda line: line.keys)
    before, last = found[-2:]
    numbers = (last.keys - before.keys) * 2 * last.channels * last.threads
    return (last.bytes - before.bytes) / numbers


def _lane(lanes: Iterable[Lane], fits: Callable[[Lane], bool]) -> Lane | None:
    return next(filter(fits, lanes), None)


def _long(*, causal: bool) -> Callable[[CaseResult], bool]:
    def fits(result: CaseResult) -> bool:
        case = result.case
        return not case.decode and case.causal == causal and case.queries >= _LEAST_LENGTH

    return fits


def _between(least: int, most: int) -> Callable[[CaseResult], bool]:
    return lambda result: not result.case.decode and least <= result.case.queries <= most


def _ratios(
    lane: Lane | None,
    ratio: Callable[[CaseResult], Spread | None],
    fits: Callable[[CaseResult], bool],
) -> list[float]:
    found = [ratio(result) for result in lane.cases if fits(result)] if lane else []
    return [each.middle for each in found if each is not None]


def _at_least(
    work: str, found: Sequence[float], must: float, goal: float, *, percent: bool = False
) -> Verdict:
    show = _percent if percent else _x
    if not found:
        return Verdict(work, show(must), show(goal), _UNKNOWN, _UNKNOWN)
    middle = statistics.median(found)
    outcome = "goal met" if middle >= goal else "must met" if middle >= must else "not met"
    measured = (
        f"median {show(middle)}, {show(min(found))} to {show(max(found))}, {len(found)} shapes"
    )
    return Verdict(work, f">= {show(must)}", f">= {show(goal)}", measured, outcome)


def _at_most(work: str, found: Sequence[float], goal: float) -> Verdict:
    if not found:
        return Verdict(work, "-", f"<= {_x(goal)}", _UNKNOWN, _UNKNOWN)
    middle = statistics.median(found)
    outcome = "goal met" if middle <= goal else "not met"
    measured = f"median {_x(middle)}, {_x(min(found))} to {_x(max(found))}, {len(found)} shapes"
    return Verdict(work, "-", f"<= {_x(goal)}", measured, outcome)


def _x(number: float) -> str:
    return f"{number:.2f}x"


def _percent(number: float) -> str:
    return f"{100 * number:.0f} %"
