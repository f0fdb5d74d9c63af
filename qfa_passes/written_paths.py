"""What `optimize` may write: nothing over a file that it reads, or over another of its own results."""

from collections.abc import Iterator
from pathlib import Path

from qfa_passes.core.printable import printable
from qfa_passes.errors import UsageError
from qfa_passes.report.report_file import report_path


def check_paths(
    model: Path,
    output: Path | None,
    *,
    calib: Path | None,
    plan: Path | None,
    save_plan: Path | None,
) -> None:
    """Refuses, before any work is done, a result that would cost the user a file.

    Raises:
        UsageError: A result is a file that is read or another result, or lies in no folder.
    """
    taken = [("the input", model)]
    if calib is not None:
        taken.append(("the calibration data", calib))
    if plan is not None and plan != save_plan:  # a plan may be replaced by what became of it
        taken.append(("the plan", plan))
    for role, target in _results(output, save_plan):
        shown = printable(str(target), 600)
        for other, path in taken:
            if _is_same_file(path, target):
                raise UsageError(
                    f"{role} '{shown}' is {other}", hint="give another name; nothing was written"
                )
        if target.is_dir() or not target.parent.is_dir():
            what = "is a folder" if target.is_dir() else "lies in a folder that does not exist"
            raise UsageError(f"{role} '{shown}' {what}", hint="give the path of a file")
        taken.append((role, target))


def _results(output: Path | None, save_plan: Path | None) -> Iterator[tuple[str, Path]]:
    if output is not None:
        yield "the output", output
        yield "the report", report_path(output)
    if save_plan is not None:
        yield "the saved plan", save_plan
        yield "the array file of the saved plan", save_plan.with_suffix(".npz")


def _is_same_file(a: Path, b: Path) -> bool:
    return a == b or (a.exists() and b.exists() and a.samefile(b))
