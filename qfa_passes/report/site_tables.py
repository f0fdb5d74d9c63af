"""Tables of attention sites: what is there, what became of it, why one was not matched."""

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from qfa_passes.core.outcome import Report, SiteOutcome, SiteStatus, Standing
from qfa_passes.core.printable import printable
from qfa_passes.core.site import AttentionSite, Refusal

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
    counts = ", ".join(
        f"{report.count(status)} {status.value}" for status in SiteStatus if report.count(status)
    )
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


def _remark(site: SiteOutcome) -> str:
    """Why a site is not fused, or what its proof leaves open."""
    if site.reason or site.proof is None or not site.proof.reason:
        return site.reason
    proven = site.proof.standing is Standing.PROVEN
    return site.proof.reason if proven else f"not proven: {site.proof.reason}"


def matched_table(found: Iterable[AttentionSite | Refusal], fused: int = 0) -> Table | Text:
    """Returns the table of `inspect`; of no sites, its title. ``fused`` blocks are done already."""
    entries = list(found)
    sites = [entry for entry in entries if isinstance(entry, AttentionSite)]
    refused = len(entries) - len(sites)
    title = f"Attention sites: {len(sites)} matched, {refused} refused"
    title += f", {fused} fused already" if fused else ""
    if not entries:
        return Text(title, style="bold")
    table = plain_table(
        title,
        "where",
        "kind",
        "heads",
        "channels",
        "mask",
        "status",
        "reason, notes",
    )
    for entry in entries:
        if isinstance(entry, Refusal):
            table.add_row(
                Text(printable(entry.where)),
                *("", "", "", ""),
                Text("refused", style="red"),
                Text(printable(entry.reason, 300)),
            )
            continue
        table.add_row(
            Text(printable(entry.name)),
            Text(printable(entry.exporter)),
            heads(entry),
            channels(entry),
            entry.mask.describe(),
            Text("matched", style="green"),
            Text(printable("; ".join(entry.notes), 300)),
        )
    return table


def heads(site: AttentionSite) -> str:
    """Returns ``9:3`` if 9 query heads share 3 key/value heads, ``12`` if each has its own."""
    if site.num_heads == site.kv_num_heads:
        return str(site.num_heads)
    return f"{site.num_heads}:{site.kv_num_heads}"


def channels(site: AttentionSite) -> str:
    """Returns ``64``, or ``96/64`` if values have another number of channels."""
    if site.qk_channels == site.v_channels:
        return str(site.qk_channels)
    return f"{site.qk_channels}/{site.v_channels}"


def explanation(entry: AttentionSite | Refusal) -> Sequence[str]:
    """Returns the answer to `inspect --why-not`, line by line."""
    if isinstance(entry, AttentionSite):
        return (
            f"{printable(entry.name)} is matched: {heads(entry)} heads, {channels(entry)} channels,"
            f" mask {entry.mask.describe()}, written as {printable(entry.exporter)}.",
            *(f"  note: {printable(note, 300)}" for note in entry.notes),
        )
    lines = [f"{printable(entry.where)} is not matched."]
    lines += [f"  understood: {printable(step, 300)}" for step in entry.progress]
    lines.append(f"  stopped at: {printable(entry.reason, 600)}")
    if entry.hint:
        lines.append(f"  hint: {printable(entry.hint, 600)}")
    return lines
