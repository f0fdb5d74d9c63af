"""The table of `optimize`: what became of each attention site."""

from rich.table import Table
from rich.text import Text

from qfa_passes.core.formats import AttentionFormat
from qfa_passes.core.outcome import Report, SiteOutcome, SiteStatus, Standing
from qfa_passes.core.printable import printable

_STYLES = {
    SiteStatus.FUSED: "green",
    SiteStatus.RESTORED: "yellow",
    SiteStatus.EXEMPT: "cyan",
    SiteStatus.REFUSED: "red",
}


def plain_table(title: str, *columns: str) -> Table:
    """Returns an empty table whose cells are wrapped, never cut."""
    table = Table(
        title=Text(title), title_justify="left", box=None, pad_edge=False, title_style="bold"
    )
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def outcome_table(report: Report) -> Table | Text:
    """Returns the site table of `optimize`; of no sites, its title."""
    counts = ", ".join(_count(report, status) for status in SiteStatus if report.count(status))
    title = f"Attention sites: {len(report.sites)} found{', ' if counts else ''}{counts}"
    if not report.sites:
        return Text(title, style="bold")
    table = plain_table(
        title,
        "where",
        "attention",
        "status",
        "structure",
        "NMSE",
        "bound",
        "reason",
    )
    for site in report.sites:
        table.add_row(
            Text(printable(site.name)),
            Text(printable(site.description)),
            Text(site.status.value, style=_STYLES[site.status]),
            "-" if site.proof is None else site.proof.standing.value,
            "-" if site.nmse is None else f"{site.nmse:.1e}",
            "-" if site.bound is None else f"{site.bound:.0e}",
            Text(printable(_remark(site), 300)),
        )
    return table


def _count(report: Report, status: SiteStatus) -> str:
    """A number of sites; of fused ones, how many are in float."""
    number, plain = report.count(status), report.fused_in(AttentionFormat.FLOAT)
    if status is not SiteStatus.FUSED or not plain:
        return f"{number} {status.value}"
    return f"{number} {status.value} ({report.fused_in(AttentionFormat.INT8)} int8, {plain} float)"


def _remark(site: SiteOutcome) -> str:
    """Why a site is not fused or not quantized, and what the proof of a fused one leaves open."""
    fused = site.status is SiteStatus.FUSED
    reason = site.reason
    if fused and site.format is AttentionFormat.FLOAT and not reason:
        reason = "in float"
    if (reason and not fused) or site.proof is None or not site.proof.reason:
        return reason
    proven = site.proof.standing is Standing.PROVEN
    doubt = site.proof.reason if proven else f"not proven: {site.proof.reason}"
    return "; ".join(filter(None, (reason, doubt)))
