"""What `optimize` prints at the end."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from qfa_passes.core.outcome import Report
from qfa_passes.core.printable import printable
from qfa_passes.report.comparison_tables import comparison_table, duration, file_size, verdict_lines
from qfa_passes.report.site_tables import outcome_table


def summary(report: Report) -> Iterator[RenderableType]:
    """Yields the site table, the whole model's accuracy, warnings and the result's place."""
    yield outcome_table(report)
    if report.data:
        yield Text(f"verified on: {printable(report.data, 300)}")
    for name, nmse in report.model_nmse.items():
        yield Text(f"output {printable(name)}: NMSE {nmse:.1e}")
    if report.comparison is not None:
        yield comparison_table(report.comparison)
        yield from verdict_lines(report.comparison)
    for warning in report.warnings:
        yield Text(f"warning: {printable(warning, 600)}", style="yellow")
    if report.target:
        sizes = " -> ".join(file_size(size) for size in report.sizes.values())
        seconds = duration(sum(timing.seconds for timing in report.timings))
        facts = f" ({sizes})" if sizes else ""
        yield Text(f"wrote {printable(report.target, 600)}{facts} in {seconds}")
