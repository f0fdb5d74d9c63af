"""The tables of docs/performance.md: all between the marks `<!-- NAME -->` and `<!-- end -->` is written here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmark.attention.goals import judge
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
    table,
    variants_table,
)
from benchmark.attention.results import Lane

_DOCS: Final = Path(__file__).parents[2] / "docs"
PAGE: Final = _DOCS / "performance.md"
PLOT: Final = _DOCS / "performance.svg"


def write_page(path: Path, lanes: Sequence[Lane]) -> None:
    """Puts the tables of a run where the page has their marks.

    Raises:
        ValueError: The page lacks a mark.
    """
    text = path.read_text(encoding="utf-8")
    path.write_text(filled(text, tables(lanes)), encoding="utf-8")


def tables(lanes: Sequence[Lane]) -> dict[str, str]:
    """All tables by their marks."""
    return {
        "machine": machine_table(lanes),
        "limits": limits_table(lanes),
        "prefill": prefill_table(lanes),
        "prefill peers": prefill_peers_table(lanes),
        "variants": variants_table(lanes),
        "decode": decode_table(lanes),
        "decode peers": decode_peers_table(lanes),
        "accuracy": accuracy_table(lanes),
        "scratch": scratch_table(lanes),
        "absent": absent_table(lanes),
        "goals": goals_table(judge(lanes)),
    }


def machine_table(lanes: Sequence[Lane]) -> str:
    """What was measured on."""
    facts = [lane.environment for lane in lanes]
    names = list(dict.fromkeys(name for lane in facts for name in lane))
    rows = []
    for name in names:
        values = dict.fromkeys(lane[name] for lane in facts if name in lane)
        rows.append([name, "; ".join(values)])
    return table(["", ""], rows)


def filled(page: str, contents: dict[str, str]) -> str:
    """A page with new tables.

    Raises:
        ValueError: The page lacks a mark.
    """
    for name, content in contents.items():
        mark = f"<!-- {name} -->"
        pattern = re.compile(re.escape(mark) + r"\n.*?<!-- end -->", re.DOTALL)
        if not pattern.search(page):
            raise ValueError(f"the page has no {mark} ... <!-- end -->")
        block = f"{mark}\n{content}<!-- end -->"
        page = pattern.sub(lambda _, block=block: block, page)  # type: ignore[misc]
    return page
