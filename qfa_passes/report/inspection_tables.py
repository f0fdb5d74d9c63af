"""The answers of `inspect`: what attention is there, and what became of one node."""

from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from qfa_passes.core.printable import printable
from qfa_passes.core.site import AttentionSite, Refusal
from qfa_passes.report.comparison_tables import in_float
from qfa_passes.report.site_tables import plain_table

_LETTERS = ("B", "S", "T")


def matched_table(
    found: Sequence[AttentionSite | Refusal], *, exporter: str = "", fused: int = 0, plain: int = 0
) -> Iterator[Table | Text]:
    """Yields the title, and a table of one row per block if there are any.

    Args:
        found: Sites and refusals.
        exporter: Which program wrote the model.
        fused: Blocks that are fused already.
        plain: Those of them that are in float.
    """
    sites = [entry for entry in found if isinstance(entry, AttentionSite)]
    title = f"Attention sites: {len(sites)} matched, {len(found) - len(sites)} refused"
    title += f", {fused} fused already{in_float(plain)}" if fused else ""
    title += f"; model written by {printable(exporter)}" if exporter else ""
    yield Text(title, style="bold")
    if not found:
        return
    table = plain_table(
        "", "where", "attention", "extents", "written as", "status", "reason, notes"
    )
    table.title = None  # a table breaks its title where its columns end
    for entry in found:
        if isinstance(entry, Refusal):
            hint = f" ({entry.hint})" if entry.hint else ""
            table.add_row(
                Text(printable(entry.where)),
                *("", "", ""),
                Text("refused", style="red"),
                Text(printable(entry.reason + hint, 600)),
            )
            continue
        table.add_row(
            Text(printable(entry.name)),
            Text(printable(entry.describe())),
            Text(printable(extents(entry))),
            Text(printable(entry.exporter)),
            Text("matched", style="green"),
            Text(printable("; ".join(entry.notes), 300)),
        )
    yield table


def extents(site: AttentionSite) -> str:
    """Returns ``B=batch S=seq T=past + seq``, as far as they are known."""
    return " ".join(
        f"{letter}={words}" for letter, words in zip(_LETTERS, site.extents, strict=False)
    )


def explanation(entry: AttentionSite | Refusal, asked: str = "", steps: int = 0) -> Sequence[str]:
    """Returns the answer to `inspect --why-not`, line by line.

    Args:
        entry: The attention that the node belongs to.
        asked: The node that was asked for.
        steps: How many nodes lie between the two.
    """
    name = entry.name if isinstance(entry, AttentionSite) else entry.where
    lines = []
    if asked and asked != name:
        near = f"{steps} node{'s' if steps > 1 else ''} from" if steps else "part of"
        lines.append(f"{printable(asked)} is {near} the attention {printable(name)}.")
    if isinstance(entry, AttentionSite):
        lines.append(
            f"{printable(name)} is matched: {printable(entry.describe())},"
            f" written as {printable(entry.exporter)}."
        )
        if entry.extents:
            lines.append(f"  extents: {printable(extents(entry))}")
        lines += [f"  note: {printable(note, 300)}" for note in entry.notes]
        return lines
    lines.append(f"{printable(name)} is not matched.")
    lines += [f"  understood: {printable(step, 300)}" for step in entry.progress]
    lines.append(f"  stopped at: {printable(entry.reason, 600)}")
    if entry.hint:
        lines.append(f"  hint: {printable(entry.hint, 600)}")
    return lines
