"""The tables of bench_match: per exporter, per architecture, and what nobody fuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmark.match_task import Answer
from models.zoo.record import Record

_TITLES = {
    "inspect": "ours (matched)",
    "float": "ours (fused, float)",
    "int8": "ours (fused, int8)",
    "ort": "ORT optimizer",
    "onnxscript": "onnxscript",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One export and what every matcher made of it."""

    record: Record
    answers: dict[str, Answer]

    @property
    def sound(self) -> bool:
        """Whether the untouched file runs at all and gives torch's outputs on a set at least."""
        return not self.record.failure and "ok" in self.record.runtime.split(" | ")


def print_tables(rows: Sequence[Row], matchers: Sequence[str], *, markdown: bool) -> None:
    """Prints all tables."""
    exports = [row for row in rows if row.sound]
    show = _markdown if markdown else _plain
    titles = [_TITLES[matcher] for matcher in matchers]
    print("\nBy exporter: blocks fused / blocks present (wrong results counted apart)\n")
    show(["exporter", "files", "blocks", *titles], _groups(exports, matchers, lambda r: r.exporter))
    print("\nBy architecture, all exporters together\n")
    show(["architecture", "files", "blocks", *titles], _groups(exports, matchers, lambda r: r.arch))
    print("\nNot fused by us\n")
    show(["export", "blocks", "reasons"], _rest(exports, matchers[0]))
    print("\nNo export, or one that does not run before anybody has touched it\n")
    show(["export", "reason"], [[r.record.name, _reason(r.record)] for r in rows if not r.sound])


def _groups(
    rows: Sequence[Row], matchers: Sequence[str], key: Callable[[Record], str]
) -> list[list[str]]:
    table = []
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row.record), []).append(row)
    shared = [row for row in rows if all(matcher in row.answers for matcher in matchers)]
    totals = {"**total**": list(rows), "**where all were asked**": shared}
    if len(shared) in (0, len(rows)):
        del totals["**where all were asked**"]
    for name, members in [*sorted(groups.items()), *totals.items()]:
        blocks = sum(row.record.blocks for row in members)
        cells = [_cell(members, matcher) for matcher in matchers]
        table.append([name, str(len(members)), str(blocks), *cells])
    return table


def _cell(rows: Iterable[Row], matcher: str) -> str:
    """`fused/present (percent), n wrong`, over the files that the matcher was asked about."""
    asked = [row for row in rows if matcher in row.answers]
    if not asked:
        return "-"
    fused = wrong = present = 0
    for row in asked:
        answer = row.answers[matcher]
        present += row.record.blocks
        counted = min(answer.fused, row.record.blocks)
        wrong += counted if answer.wrong else 0
        fused += 0 if answer.wrong else counted
    percent = 100 * fused / present if present else 0.0
    return f"{fused}/{present} ({percent:.1f} %)" + (f", {wrong} wrong" if wrong else "")


def _rest(rows: Iterable[Row], matcher: str) -> list[list[str]]:
    table = []
    for row in rows:
        answer = row.answers.get(matcher, Answer())
        if answer.fused == row.record.blocks and not answer.wrong:
            continue
        reasons = [f"{count}x {text}" for text, count in Counter(answer.refusals).items()]
        if answer.wrong:
            reasons.insert(0, f"WRONG by {answer.error:.1e}")
        if answer.problem:
            reasons.insert(0, answer.problem)
        table.append(
            [
                row.record.name,
                f"{answer.fused}/{row.record.blocks}",
                "; ".join(reasons) or "not seen",
            ]
        )
    return table


def _reason(record: Record) -> str:
    return record.failure or record.runtime.split(" | ")[0]


def _markdown(titles: Sequence[str], table: Iterable[Sequence[str]]) -> None:
    print("| " + " | ".join(titles) + " |")
    print("|" + " --- |" * len(titles))
    for row in table:
        print("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")


def _plain(titles: Sequence[str], table: Iterable[Sequence[str]]) -> None:
    lines = [list(titles), *map(list, table)]
    widths = [min(40, max(len(line[column]) for line in lines)) for column in range(len(titles))]
    for line in lines:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )
