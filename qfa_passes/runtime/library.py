"""Finds the custom-operator library and makes sure that this process can load it."""

import ctypes
import functools
import os
import platform
import sys
from pathlib import Path
from typing import Final

from qfa_passes.errors import LibraryError
from qfa_passes.runtime.elf_header import canonical_machine, read_elf_header

ENVIRONMENT_VARIABLE: Final = "QFA_LIBRARY"
FILE_NAME: Final = {"win32": "qfa_ops.dll", "darwin": "libqfa_ops.dylib"}.get(
    sys.platform, "libqfa_ops.so"
)
REINSTALL: Final = (
    "reinstall with `pip install --force-reinstall qfa-passes`, "
    f"or set {ENVIRONMENT_VARIABLE} to the path of {FILE_NAME}"
)


def get_library_path() -> str:
    """Returns the absolute path for ``SessionOptions.register_custom_ops_library``.

    ``QFA_LIBRARY`` in the environment overrides the library that came with the package.

    Raises:
        LibraryError: It is missing, made for another processor, or does not load.
    """
    path = _locate()
    open_library(path)
    return str(path)


@functools.cache
def open_library(path: Path) -> ctypes.CDLL:
    """Loads the library into this process, once.

    Raises:
        LibraryError: It is made for another processor, does not load, or is another library.
    """
    _check_architecture(path)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise LibraryError(
            f"the operator library '{path}' does not load",
            why=str(error),
            hint="build it on this system: pip install --force-reinstall --no-binary qfa-passes "
            "qfa-passes",
        ) from error
    for symbol in ("RegisterCustomOps", "qfa_version"):
        if not hasattr(library, symbol):
            raise LibraryError(
                f"'{path}' is not the operator library", why=f"it lacks {symbol}", hint=REINSTALL
            )
    return library


def _locate() -> Path:
    forced = os.environ.get(ENVIRONMENT_VARIABLE)
    if forced:
        path = Path(forced).absolute()
        if path.is_file():
            return path
        raise LibraryError(
            f"{ENVIRONMENT_VARIABLE} is '{forced}'",
            why="that is no file",
            hint=f"set it to the path of {FILE_NAME}, or unset it",
        )
    # An editable install keeps the Python files and the built library in two places of one package; and a program that
    # starts in the source tree imports the package from there, while the library is where it was installed.
    packages = [Path(folder) for folder in sys.modules[__package__].__path__]
    packages += [Path(folder, *__package__.split(".")) for folder in sys.path]
    folders = [folder / "lib" for folder in dict.fromkeys(packages) if folder.is_dir()]
    for folder in folders:
        if (folder / FILE_NAME).is_file():
            return (folder / FILE_NAME).absolute()
    raise LibraryError(
        f"the operator library {FILE_NAME} is missing",
        why="looked in " + ", ".join(str(folder) for folder in folders),
        hint=REINSTALL,
    )


def _check_architecture(path: Path) -> None:
    """Explains what the loader of the system would only call a wrong ELF class or an invalid header."""
    if not sys.platform.startswith("linux"):
        return
    try:
        header = read_elf_header(path)
    except OSError as error:
        raise LibraryError(
            f"the operator library '{path}' cannot be read",
            why=error.strerror or "",
            hint=REINSTALL,
        ) from error
    if header is None:
        raise LibraryError(
            f"the operator library '{path}' is no shared library",
            why="its header is not that of an ELF file",
            hint=REINSTALL,
        )
    bits = 64 if sys.maxsize > 2**32 else 32
    machine = canonical_machine(platform.machine())
    if (header.machine, header.bits) != (machine, bits):
        raise LibraryError(
            f"the operator library '{path}' is made for {header.machine} ({header.bits} bit)",
            why=f"this Python runs on {machine} ({bits} bit)",
            hint=REINSTALL,
        )
