"""The table of `doctor`."""

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from qfa_passes.core.health import HealthCheck, HealthStatus
from qfa_passes.core.printable import printable
from qfa_passes.report.site_tables import plain_table

_STYLES = {HealthStatus.OK: "green", HealthStatus.WARN: "yellow", HealthStatus.FAIL: "bold red"}


def health_table(checks: Iterable[HealthCheck]) -> Table:
    """Returns one line per check."""
    table = plain_table("", "what", "status", "found", "what to do")
    table.title = None
    for check in checks:
        table.add_row(
            Text(printable(check.name)),
            Text(check.status.value, style=_STYLES[check.status]),
            Text(printable(check.detail, 600)),
            Text(printable(check.hint, 600)),
        )
    return table
