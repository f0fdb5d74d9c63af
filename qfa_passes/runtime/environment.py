"""What a run ran on, for its report."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Final

from qfa_passes.errors import LibraryError
from qfa_passes.runtime.instruction_sets import read_library_facts
from qfa_passes.runtime.library import get_library_path

_PACKAGES: Final = ("qfa-passes", "onnx", "onnxruntime", "onnx-graphsurgeon", "numpy")


def library_or_none() -> Path | None:
    """Path of the operator library, or None if there is none that loads."""
    try:
        return Path(get_library_path())
    except LibraryError:
        return None


def describe_environment(library: Path | None) -> dict[str, str]:
    """Versions, processor and instruction set; nothing that differs between two runs on one machine."""
    words = {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "processors": str(os.cpu_count() or 1),
        **{name: package_version(name) for name in _PACKAGES},
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
