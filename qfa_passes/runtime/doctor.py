"""Everything that decides whether optimized models run here, in one record."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from qfa_passes.errors import QfaError
from qfa_passes.runtime.environment import PACKAGES, package_version
from qfa_passes.runtime.host import import_onnxruntime
from qfa_passes.runtime.instruction_sets import InstructionSet, read_library_facts
from qfa_passes.runtime.library import get_library_path
from qfa_passes.runtime.self_test import SelfTestCase, run_self_test


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """What `doctor` found.

    Attributes:
        system: Operating system, processor family and Python version.
        packages: Installed versions by name; "missing" where there is none.
        library: Path of the operator library; empty if none loads.
        library_version: Its version.
        instruction_sets: All that it knows, slowest first.
        forced: The value of ``QFA_ISA``; empty if unset.
        chosen: The instruction set that sessions will use.
        self_test: The operator in ONNX Runtime against float64 attention.
        problems: What must be mended, with the way to mend it; empty if all is well.
    """

    system: str
    packages: dict[str, str]
    library: str
    library_version: str
    instruction_sets: tuple[InstructionSet, ...]
    forced: str
    chosen: str
    self_test: tuple[SelfTestCase, ...]
    problems: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """True if optimized models run here."""
        return not self.problems


def run_doctor() -> DoctorReport:
    """Looks at everything; never raises for what it finds."""
    problems: list[str] = []
    library = library_version = chosen = ""
    sets: tuple[InstructionSet, ...] = ()
    cases: tuple[SelfTestCase, ...] = ()
    packages = {name: package_version(name) for name in PACKAGES}
    try:
        library = get_library_path()
        facts = read_library_facts(Path(library))
        library_version, sets, chosen = facts.version, facts.instruction_sets, facts.chosen
        if facts.problem:
            problems.append(facts.problem)
        if packages["qfa-passes"] not in (library_version, "missing"):
            problems.append(
                f"the operator library is of version {library_version}, the package of version "
                f"{packages['qfa-passes']}; reinstall qfa-passes"
            )
    except QfaError as error:
        problems.append(str(error))
    try:
        import_onnxruntime()
    except QfaError as error:
        problems.append(str(error))
    if not problems:
        cases = run_self_test()
        problems += [f"self-test '{case.name}': {case.problem}" for case in cases if case.problem]
    return DoctorReport(
        system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        packages=packages,
        library=library,
        library_version=library_version,
        instruction_sets=sets,
        forced=os.environ.get("QFA_ISA", ""),
        chosen=chosen,
        self_test=cases,
        problems=tuple(problems),
    )
