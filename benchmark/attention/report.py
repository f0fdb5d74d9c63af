"""Tables, in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Final

from benchmark.attention.case import Case
from benchmark.attention.goals import Verdict
from benchmark.attention.results import CaseResult, Lane
from benchmark.attention.spread import Spread
from benchmark.attention.who import fastest_peer, is_ours, peer_ratio, reference

_PREFILL_PEERS: Final = {
    "torch float32": "torch f32",
    "torch bfloat16": "torch bf16",
    "OpenVINO f32": "OV f32",
    "OpenVINO bf16": "OV bf16",
    "OpenVINO int8 (FakeQuantize)": "OV int8",
    "ORT MultiHeadAttention": "MHA",
    "ORT GroupQueryAttention": "GQA",
    "ORT GroupQueryAttention int8 cache": "GQA int8",
    "ORT GroupQueryAttention int4 cache": "GQA int4",
    "ORT Attention-23": "Attention",
    "ORT unfused": "unfused",
    "ORT unfused QDQ": "QDQ",
}
_DECODE_PEERS: Final = {
    "torch float32": "torch f32",
    "torch float32, grouped": "grouped",
    "torch bfloat16": "torch bf16",
    "torch bfloat16, grouped": "grouped",
    "OpenVINO f32 cache": "OV f32",
    "OpenVINO bf16 cache": "OV bf16",
    "OpenVINO u8 cache": "OV u8",
    "ORT GroupQueryAttention": "GQA",
    "ORT GroupQueryAttention int8 cache": "GQA int8",
    "ORT GroupQueryAttention int4 cache": "GQA int4",
    "ORT MultiHeadAttention, past": "MHA",
    "ORT Attention-23, whole cache": "Attention",
}
_CACHES: Final = (
    "int8 channel",
    "int4",
    "fp8e4m3",
    "fp8e4m3 x fp8e4m3",
    "fp8e5m2",
    "bfloat16",
    "float32",
)


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def case_line(result: CaseResult) -> str:
    """One case in a line, for those who wait."""
    name = reference(result, "")
    ours = result.timings.get(name)
    if ours is None:
        return f"{result.case.label}: {name} is absent: {result.absent.get(name, '?')}"
    rate = (
        f"{ours.bytes / ours.middle / 1e9:.1f} GB/s"
        if result.case.decode
        else f"{result.case.flops / ours.middle / 1e9:.0f} GFLOP/s"
    )
    nearest = fastest_peer(result)
    peer = f"{nearest[0]} takes {_ratio(nearest[1])} as long" if nearest else "no peer"
    wrong = ", ".join(name for name, timing in result.timings.items() if timing.wrong)
    return (
        f"{result.case.label:36} {ours.middle * 1e3:9.3f} ms {rate:>12}, NMSE {ours.error:.1e}; {peer}"
        + (f"; WRONG: {wrong}" if wrong else "")
    )


def limits_table(lanes: Iterable[Lane]) -> str:
    """Peaks and rates of all lanes."""
    rows = [
        [
            lane.name,
            *(
                f"{rates[name] / 1e9:.0f}" if rates.get(name) else "-"
                for rates, name in _limits(lane)
            ),
        ]
        for lane in lanes
    ]
    first = next(iter(lanes))
    units = {"L2": "GB/s", "L3": "GB/s", "DRAM": "GB/s"}
    titles = [f"{name}, {units.get(name, 'G/s')}" for _, name in _limits(first)]
    return table(["lane", *titles], rows)


def prefill_table(lanes: Iterable[Lane]) -> str:
    """Ours: time, rate, share of the limit, error; and who comes nearest."""
    titles = ["lane", "heads", "D", "S = T", "mask", "kernel, ms", "GFLOP/s", "of int8 peak"]
    titles += ["of f32 peak", "NMSE", "fastest peer", "its time / ours (quartiles)"]
    rows = []
    for lane in lanes:
        for result in _of_kind(lane, decode=False):
            ours = result.timings.get("kernel int8")
            if ours is None:
                continue
            rate = result.case.flops / ours.middle
            nearest = fastest_peer(result)
            row = [
                lane.name,
                *_extents(result.case),
                f"{ours.middle * 1e3:.3f}",
                f"{rate / 1e9:.0f}",
            ]
            row += [_share(rate, lane.peak()), _share(rate, lane.float_peak())]
            row += [_error(ours.error, ours.wrong), nearest[0] if nearest else "-"]
            rows.append([*row, _ratio(nearest[1]) if nearest else "-"])
    return table(titles, rows)


def prefill_peers_table(lanes: Iterable[Lane]) -> str:
    """Every peer's time over ours."""
    return _peers_table(lanes, _PREFILL_PEERS, decode=False)


def decode_peers_table(lanes: Iterable[Lane]) -> str:
    """The same of a step with a cache; ours has an int8 cache."""
    return _peers_table(lanes, _DECODE_PEERS, decode=True)


def variants_table(lanes: Iterable[Lane]) -> str:
    """Our other ways, as multiples of the kernel in int8 from float32."""
    results = [
        (lane, result)
        for lane in lanes
        for result in _of_kind(lane, decode=False)
        if result.right("kernel int8")
    ]
    seen = dict.fromkeys(name for _, result in results for name in result.timings)
    names = [
        name
        for name in seen
        if is_ours(name) and name != "kernel int8" and not name.endswith("1 thread")
    ]
    rows = [
        [
            lane.name,
            *_extents(result.case),
            *(_cell(result, name, result.ratio(name, "kernel int8")) for name in names),
        ]
        for lane, result in results
    ]
    return table(["lane", "heads", "D", "S = T", "mask", *names], rows)


def decode_table(lanes: Iterable[Lane]) -> str:
    """Ours with an int8 cache: time, rate, share of reading; the other caches as multiples of its time."""
    titles = ["lane", "heads", "D", "B", "S", "T", "int8 cache, ms", "operator, ms", "GB/s"]
    titles += [
        "of reading",
        "of DRAM",
        "NMSE",
        *(f"{name} / int8" for name in _CACHES),
        "int4 of reading",
    ]
    rows = []
    for lane in lanes:
        for result in _of_kind(lane, decode=True):
            ours = result.timings.get("kernel int8 cache")
            if ours is None:
                continue
            through = result.timings.get("operator int8 cache")
            row = [lane.name, *_extents(result.case), f"{ours.middle * 1e3:.3f}"]
            row.append(f"{through.middle * 1e3:.3f}" if through else "-")
            rate = ours.bytes / ours.middle
            row += [f"{rate / 1e9:.1f}", reading_share(result, "int8")]
            row.append(_share(rate, lane.reading["DRAM"]))
            row.append(_error(ours.error, ours.wrong))
            for cache in _CACHES:
                name = f"kernel {cache} cache"
                row.append(_cell(result, name, result.ratio(name, "kernel int8 cache")))
            rows.append([*row, reading_share(result, "int4")])
    return table(titles, rows)


def reading_share(result: CaseResult, cache: str) -> str:
    """Time of merely reading a cache over the time of attending to it."""
    ours, reading = f"kernel {cache} cache", f"reading the {cache} cache"
    ratio = result.ratio(reading, ours)
    return "-" if ratio is None else f"{100 * ratio.middle:.0f} %"


def accuracy_table(lanes: Iterable[Lane]) -> str:
    """The median error of everyone, against float64 in the same run, and how often it was wrong."""
    errors: dict[str, list[float]] = {}
    wrong: dict[str, int] = {}
    for lane in lanes:
        for result in lane.cases:
            for name, timing in result.timings.items():
                if not name.startswith("reading"):
                    errors.setdefault(name, []).append(timing.error)
                    wrong[name] = wrong.get(name, 0) + timing.wrong
    rows = [
        [
            name,
            str(len(found)),
            f"{statistics.median(found):.1e}",
            f"{max(found):.1e}",
            str(wrong[name] or "-"),
        ]
        for name, found in errors.items()
    ]
    return table(["who", "cases", "median NMSE", "largest NMSE", "wrong results"], rows)


def absent_table(lanes: Iterable[Lane]) -> str:
    """Who took no part where, and why."""
    where: dict[tuple[str, str], list[str]] = {}
    for lane in lanes:
        for result in lane.cases:
            for name, reason in result.absent.items():
                general = "a call takes too long" if reason.startswith("a call takes") else reason
                general = "its scores are too large" if reason.startswith("its scores") else general
                where.setdefault((name, general), []).append(f"{lane.name}: {result.case.label}")
    rows = [[name, reason, str(len(labels)), labels[0]] for (name, reason), labels in where.items()]
    return table(["who", "why", "cases", "the first"], rows)


def scratch_table(lanes: Iterable[Lane]) -> str:
    """Memory beyond inputs and outputs."""
    rows = [
        [
            lane.name,
            line.work,
            f"8/2, D = {line.channels}",
            str(line.queries),
            str(line.keys),
            f"{line.bytes / 1024:.0f}",
        ]
        for lane in lanes
        for line in lane.scratch
    ]
    return table(["lane", "work", "heads", "S", "T", "scratch at most, KiB"], rows)


def goals_table(verdicts: Iterable[Verdict]) -> str:
    """What was to be reached, and what was."""
    rows = [[v.work, v.must, v.goal, v.measured, v.outcome] for v in verdicts]
    return table(["work", "must", "goal", "measured", "outcome"], rows)


def _peers_table(lanes: Iterable[Lane], names: dict[str, str], *, decode: bool) -> str:
    extents = ["heads", "D", "B", "S", "T"] if decode else ["heads", "D", "S = T", "mask"]
    rows = []
    for lane in lanes:
        for result in _of_kind(lane, decode=decode):
            cells = [_cell(result, name, peer_ratio(result, name)) for name in names]
            rows.append([lane.name, *_extents(result.case), *cells])
    return table(["lane", *extents, *names.values()], rows)


def _cell(result: CaseResult, name: str, ratio: Spread | None) -> str:
    if ratio is not None:
        return _ratio(ratio)
    return "wrong" if name in result.timings and not result.right(name) else "-"


def _of_kind(lane: Lane, *, decode: bool) -> list[CaseResult]:
    return [result for result in lane.cases if result.case.decode == decode]


def _extents(case: Case) -> list[str]:
    heads = [f"{case.heads}/{case.kv_heads}", str(case.channels)]
    if case.decode:
        return [*heads, str(case.batch), str(case.queries), str(case.keys)]
    return [*heads, str(case.queries), case.mask]


def _limits(lane: Lane) -> list[tuple[dict[str, float], str]]:
    return [(lane.peaks, name) for name in lane.peaks] + [
        (lane.reading, name) for name in lane.reading
    ]


def _ratio(found: Spread) -> str:
    return f"{found.middle:.2f} ({found.low:.2f}-{found.high:.2f})"


def _share(rate: float, limit: float) -> str:
    return f"{100 * rate / limit:.0f} %" if limit else "-"


def _error(error: float, wrong: bool) -> str:
    return f"{error:.1e}" + (" WRONG" if wrong else "")
