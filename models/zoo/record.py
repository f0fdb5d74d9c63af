"""What is written beside an export: `zoo.jsonl`, one line a file; the last line of a name counts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

JOURNAL = "zoo.jsonl"


@dataclass(frozen=True, slots=True)
class Record:
    """One architecture by one exporter.

    Attributes:
        name: `<arch>_<exporter>`, the name of the file without its ending.
        arch: The architecture.
        exporter: Who wrote it, for example `ts17_sdpa`.
        blocks: Attention blocks of the torch module that the graph was made of.
        failure: Why there is no file, in the exporter's words; empty if there is one.
        runtime: What ONNX Runtime says of the file: `ok`, the largest difference from torch, or its refusal.
        seconds: How long the export took.
        versions: Of the libraries that took part.
    """

    name: str
    arch: str
    exporter: str
    blocks: int
    failure: str = ""
    runtime: str = ""
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)


def append_record(folder: Path, record: Record) -> None:
    """Adds a line."""
    with (folder / JOURNAL).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(record)) + "\n")


def read_records(folder: Path) -> dict[str, Record]:
    """All records by name."""
    path = folder / JOURNAL
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    records = (Record(**json.loads(line)) for line in lines)
    return {record.name: record for record in records}
