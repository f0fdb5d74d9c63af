"""What a run ran on, for its report."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Final

from qfa_passes.errors import LibraryError
from qfa_passes.runtime.instruction_sets import read_library_facts
from qfa_passes.runtime.library import get_library_path

PACKAGES: Final = ("qfa-passes", "onnx", "onnxruntime", "onnx-graphsurgeon", "numpy")


def library_or_none() -> Path | None:
    """Path of the operator library, or None if there is none that loads."""
    try:
        return Path(get_library_path())
    except LibraryError:
        return None


def library_problem() -> str:
    """Why the operator library cannot be used, or empty."""
    try:
        get_library_path()
    except LibraryError as error:
        return f"{error.what}: {error.why}" if error.why else error.what
    return ""


def describe_environment(library: Path | None) -> dict[str, str]:
    """Versions, processor and instruction set; nothing that differs between two runs on one machine."""
    words = {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "processors": str(os.cpu_count() or 1),
        **{name: package_version(name) for name in PACKAGES},
    }
    words["instruction set"] = (
        read_library_facts(library).chosen if library else "function body (no library)"
    )
    return words


def package_version(package: str) -> str:
    """Installed version of a package, or "missing"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
