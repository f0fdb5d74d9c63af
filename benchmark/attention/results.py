"""What a run found, in a form that can be kept as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark.attention.case import Case
from benchmark.attention.spread import Spread, fastest, ratios


@dataclass(frozen=True, slots=True)
class Timing:
    """One contestant in one case.

    Attributes:
        seconds: Per call, one number a round.
        error: Normalized mean squared error against float64; nan for what computes nothing.
        wrong: Whether that is more than its format explains.
        bytes: Of keys and values that it must read; 0 if that was not counted.
    """

    seconds: tuple[float, ...]
    error: float
    wrong: bool
    bytes: float

    @property
    def middle(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


@dataclass(frozen=True, slots=True)
class CaseResult:
    """Everyone in one case.

    Attributes:
        case: The shape.
        timings: By contestant.
        absent: Who took no part, and why.
    """

    case: Case
    timings: dict[str, Timing]
    absent: dict[str, str]

    def ratio(self, theirs: str, ours: str) -> Spread | None:
        """Time of one over time of the other; None if one of them is missing or wrong."""
        if not (self.right(theirs) and self.right(ours)):
            return None
        return ratios(self.timings[theirs].seconds, self.timings[ours].seconds)

    def best_ratio(self, theirs: Iterable[str], ours: str) -> Spread | None:
        """The same for whoever was fastest in each round."""
        columns = [self.timings[name].seconds for name in theirs if self.right(name)]
        if not columns or not self.right(ours):
            return None
        return ratios(fastest(columns), self.timings[ours].seconds)

    def right(self, name: str) -> bool:
        """Whether it took part and computed the right thing."""
        return name in self.timings and not self.timings[name].wrong


@dataclass(frozen=True, slots=True)
class Scratch:
    """Memory that the kernel asked for beyond inputs and outputs: bytes at most at one time.

    Attributes:
        work: "prefill", or the kind of cache of a step.
        queries: S.
        keys: T.
        channels: D.
        threads: How many.
        bytes: At most.
    """

    work: str
    queries: int
    keys: int
    channels: int
    threads: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Lane:
    """All results of one process.

    Attributes:
        name: Instruction set that everything was held to (or "native") and threads.
        isa: What our kernels ran on.
        threads: How many.
        environment: Versions and the processor.
        peaks: Operations per second by "set format".
        reading: Bytes per second by "L2", "L3", "DRAM".
        cases: In order.
        scratch: Memory.
    """

    name: str
    isa: str
    threads: int
    environment: dict[str, str]
    peaks: dict[str, float]
    reading: dict[str, float]
    cases: tuple[CaseResult, ...]
    scratch: tuple[Scratch, ...]

    def peak(self) -> float:
        """Operations per second of the int8 instruction that our kernels use; 0 if nobody knows."""
        base = {"avx512bf16": "avx512vnni"}.get(self.isa, self.isa)
        return self.peaks.get(f"{base} int8", 0.0)

    def float_peak(self) -> float:
        """Operations per second of float32 products in the registers of the set."""
        wide = self.isa.startswith(("avx512", "amx"))
        name = "avx512 fp32" if wide else "avx2 fp32" if self.isa.startswith("avx") else "neon fp32"
        return self.peaks.get(name, 0.0)


def write_lanes(path: Path, lanes: Iterable[Lane]) -> None:
    """Keeps lanes as JSON."""
    path.write_text(json.dumps([asdict(lane) for lane in lanes], indent=1), encoding="utf-8")


def read_lanes(path: Path) -> list[Lane]:
    """Reads what `write_lanes` wrote."""
    return [_lane(entry) for entry in json.loads(path.read_text(encoding="utf-8"))]


def _lane(entry: dict[str, Any]) -> Lane:
    cases = tuple(
        CaseResult(
            Case(**case["case"]),
            {
                name: Timing(**{**timing, "seconds": tuple(timing["seconds"])})
                for name, timing in case["timings"].items()
            },
            case["absent"],
        )
        for case in entry["cases"]
    )
    scratch = tuple(Scratch(**line) for line in entry["scratch"])
    return Lane(**{**entry, "cases": cases, "scratch": scratch})
