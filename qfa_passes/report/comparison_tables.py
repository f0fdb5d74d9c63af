"""The before/after table of two models, and the tables that go with it."""

from collections.abc import Mapping
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from qfa_passes.core.printable import printable
from qfa_passes.report.site_tables import plain_table


@dataclass(frozen=True, slots=True)
class Row:
    """One line: a measure of both models and what to make of the pair."""

    measure: str
    before: str
    after: str
    remark: str = ""


def before_after_table(name_a: str, name_b: str, rows: list[Row]) -> Table:
    """Returns the table of two models side by side."""
    table = plain_table("", "", printable(name_a, 60), printable(name_b, 60), "")
    table.title = None
    for row in rows:
        table.add_row(row.measure, row.before, row.after, Text(printable(row.remark, 300)))
    return table


def megabytes(size: int) -> str:
    """Returns a file size, such as ``540.3 MB``."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def milliseconds(seconds: float) -> str:
    """Returns a duration, such as ``12.3 ms``."""
    return f"{seconds * 1e3:.1f} ms" if seconds < 10 else f"{seconds:.1f} s"


def ratio(before: float, after: float) -> str:
    """Returns how a cost changed, such as ``1.8x faster``-free ``-45 %``."""
    return f"{(after / before - 1) * 100:+.1f} %" if before else ""


def output_table(outputs: Mapping[str, tuple[float, float, float]]) -> Table:
    """Returns NMSE, cosine and largest difference by output name."""
    table = plain_table("Outputs", "output", "NMSE", "cosine", "largest difference")
    for name, (nmse, cosine, largest) in outputs.items():
        table.add_row(Text(printable(name)), f"{nmse:.2e}", f"{cosine:.6f}", f"{largest:.3g}")
    return table
