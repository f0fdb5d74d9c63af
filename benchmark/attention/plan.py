"""What one measuring process is told."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmark.attention.case import Case


@dataclass(frozen=True, slots=True)
class Plan:
    """One process.

    Attributes:
        name: Of the lane.
        threads: Of every contestant.
        held: The instruction set that everything that can be held is held to, or "".
        cases: What is measured.
        libraries: Who takes part: "ours", "torch", "onnxruntime", "openvino".
        only: Beginnings of names; none for all.
        budget: Seconds that the rounds of one case may take.
        fewest: Rounds at least.
        most: Rounds at most.
        patience: Seconds; who takes longer for one call takes no part.
        output: Where results go.
    """

    name: str
    threads: int
    held: str
    cases: tuple[Case, ...]
    libraries: tuple[str, ...]
    only: tuple[str, ...]
    budget: float
    fewest: int
    most: int
    patience: float
    output: str = ""


def write_plan(path: Path, plan: Plan) -> None:
    """Keeps a plan as JSON."""
    path.write_text(json.dumps(asdict(plan)), encoding="utf-8")


def read_plan(path: Path) -> Plan:
    """Reads what `write_plan` wrote."""
    entry = json.loads(path.read_text(encoding="utf-8"))
    lists = {key: tuple(entry[key]) for key in ("libraries", "only")}
    return Plan(**{**entry, **lists, "cases": tuple(Case(**case) for case in entry["cases"])})
