"""report.json: what `optimize` did, next to its output."""

from pathlib import Path
from typing import Any, Final

from qfa_passes.core.formats import AttentionFormat
from qfa_passes.core.outcome import Report, SiteStatus
from qfa_passes.core.small_file import write_whole
from qfa_passes.errors import QfaError
from qfa_passes.report.json_text import plain, to_json

REPORT_VERSION: Final = 1
"""Fields are only ever added within a version."""


def report_path(output: Path) -> Path:
    """Returns where the report of a model goes: ``model.onnx`` -> ``model.report.json``."""
    return output.with_suffix(".report.json")


def report_document(report: Report, error: QfaError | None = None) -> dict[str, Any]:
    """Returns the report as plain JSON values.

    Args:
        report: What was done.
        error: Why it ended early; None if it did not.
    """
    counts = {status.value: report.count(status) for status in SiteStatus}
    for form in (AttentionFormat.INT8, AttentionFormat.FLOAT):
        counts[f"{SiteStatus.FUSED.value}_{form.value}"] = report.fused_in(form)
    document: dict[str, Any] = {
        "schema_version": REPORT_VERSION,
        "summary": {"found": len(report.sites), **counts},
    }
    document.update(plain(report))
    document["error"] = error_document(error) if error else None
    return document


def error_document(error: QfaError) -> dict[str, Any]:
    """Returns an error as plain JSON values."""
    return {
        "code": error.code,
        "exit_code": error.exit_code,
        "what": error.what,
        "why": error.why,
        "hint": error.hint,
    }


def write_report(report: Report, path: Path, error: QfaError | None = None) -> None:
    """Writes report.json; the file is complete or not there at all.

    Raises:
        SaveError: The folder cannot be written.
    """
    write_whole(path, (to_json(report_document(report, error)) + "\n").encode())
