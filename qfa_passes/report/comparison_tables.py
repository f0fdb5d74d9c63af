"""The before/after table: attention sites, size, latency, accuracy of two models side by side."""

from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from qfa_passes.core.comparison import ModelComparison, ModelFacts, Verdict
from qfa_passes.core.printable import printable
from qfa_passes.report.site_tables import plain_table

_STYLES = {Verdict.PASS: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}


@dataclass(frozen=True, slots=True)
class Row:
    """One measure of both models and what to make of the pair."""

    measure: str
    before: str
    after: str
    remark: str = ""


def comparison_table(comparison: ModelComparison) -> Table:
    """Returns the before/after table."""
    a, b = comparison.a.name, comparison.b.name
    same = a == b
    table = plain_table(
        f"Data: {printable(comparison.data)}",
        "",
        f"{printable(a, 60)}{' (before)' if same else ''}",
        f"{printable(b, 60)}{' (after)' if same else ''}",
        "",
    )
    for row in comparison_rows(comparison):
        table.add_row(row.measure, row.before, row.after, Text(printable(row.remark, 300)))
    return table


def comparison_rows(comparison: ModelComparison) -> list[Row]:
    """Returns the lines of the before/after table that were measured."""
    a, b = comparison.a, comparison.b
    rows = []
    sites_a, sites_b = _sites(a), _sites(b)
    if sites_a and sites_b:
        rows.append(Row("attention sites", sites_a, sites_b))
    if a.file_bytes is not None and b.file_bytes is not None:
        remark = f"{b.file_bytes / a.file_bytes - 1:+.1%}" if a.file_bytes else ""
        rows.append(Row("size", file_size(a.file_bytes), file_size(b.file_bytes), remark))
    latency = comparison.latency
    if latency is not None:
        remark = f"{faster(latency.seconds_a, latency.seconds_b)}; {latency.shape}"
        rows.append(
            Row("latency", duration(latency.seconds_a), duration(latency.seconds_b), remark)
        )
    language = comparison.language
    if language is not None:
        rows.append(
            Row(
                "perplexity",
                f"{language.perplexity_a:#.4g}",
                f"{language.perplexity_b:#.4g}",
                f"{language.change:+.2%} (95 % confidence {language.change_low:+.2%} .. "
                f"{language.change_high:+.2%}, {language.tokens} tokens)",
            )
        )
        rows.append(
            Row("KL divergence", "0", f"{language.kld_mean:.1e}", f"99 %: {language.kld_p99:.1e}")
        )
        rows.append(Row("same first choice", "", f"{language.top1:.1%}"))
        return rows
    for name, error in comparison.outputs.items():
        remark = f"cosine {error.cosine:.6f}, largest difference {error.max_abs:.2g}"
        if error.nonfinite:
            remark += f", {error.nonfinite} NaN or infinite on one side only"
        rows.append(Row(f"NMSE of {printable(name, 60)}", "0", f"{error.nmse:.1e}", remark))
    return rows


def verdict_lines(comparison: ModelComparison) -> list[Text]:
    """Returns the verdict, what led to it and what to keep in mind."""
    guard = comparison.guard
    lines = [Text(f"verdict: {guard.verdict.value}", style=_STYLES[guard.verdict])]
    lines += [Text(f"  {printable(line, 400)}") for line in guard.findings]
    lines += [Text(f"  note: {printable(line, 400)}") for line in guard.notes]
    lines += [Text(f"  warning: {printable(line, 400)}") for line in comparison.warnings]
    return lines


def in_float(number: int) -> str:
    """Returns how many of some fused blocks quantize nothing, such as `` (2 in float)``; empty if none."""
    return f" ({number} in float)" if number else ""


def file_size(size: int) -> str:
    """Returns a size in words, such as ``540.3 MB``."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def duration(seconds: float) -> str:
    """Returns a duration in words, such as ``12.3 ms``."""
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def faster(before: float, after: float) -> str:
    """Returns how a duration changed, such as ``1.8x faster``."""
    if before <= 0 or after <= 0:
        return "not measurable"
    return f"{before / after:.2f}x faster" if after <= before else f"{after / before:.2f}x slower"


def _sites(facts: ModelFacts) -> str:
    parts = []
    if facts.fused:
        parts.append(f"{facts.fused} fused" + in_float(facts.in_float))
    if facts.attention:
        parts.append(f"{facts.attention} float")
    if not parts and facts.fused is not None and facts.attention is not None:
        parts.append("0")
    return " + ".join(parts)
