"""The table of `doctor`."""

from rich.table import Table
from rich.text import Text

from qfa_passes.core.printable import printable
from qfa_passes.report.site_tables import plain_table
from qfa_passes.runtime.doctor import DoctorReport

_OK = Text("ok", style="green")
_WARN = Text("note", style="yellow")
_FAIL = Text("FAIL", style="bold red")


def doctor_table(found: DoctorReport) -> Table:
    """Returns one line per thing that was looked at, problems last."""
    table = plain_table("", "what", "status", "found")
    table.title = None
    table.add_row("system", _OK, Text(printable(found.system, 300)))
    for package, version in found.packages.items():
        table.add_row(package, _WARN if version == "missing" else _OK, Text(printable(version)))
    library = f"{found.library} {found.library_version}".strip() or "none"
    table.add_row("library", _OK if found.library else _FAIL, Text(printable(library, 600)))
    for item in found.instruction_sets:
        remark = ", used" if item.name == found.chosen else ""
        state = "usable" if item.usable else "not on this processor"
        table.add_row(f"instruction set {item.name}", _OK, Text(state + remark))
    if found.forced:
        table.add_row("QFA_ISA", _WARN, Text(printable(found.forced)))
    for case in found.self_test:
        verdict = f"NMSE {case.nmse:.1e}" if case.nmse is not None else "did not run"
        table.add_row(
            f"self-test {printable(case.name)}",
            _FAIL if case.problem else _OK,
            Text(printable(case.problem, 600) or verdict),
        )
    for problem in found.problems:
        text = "\n".join(printable(line, 600) for line in problem.split("\n"))
        table.add_row("problem", _FAIL, Text(text))
    return table
