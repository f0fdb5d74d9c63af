"""What the operator library says about this processor (custom_ops/include/qfa/qfa.h)."""

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qfa_passes.runtime.library import open_library

_NUMBERS: Final = range(1, 32)
"""Values of qfa_isa that may have a name; 0 stands for the automatic choice."""


@dataclass(frozen=True, slots=True)
class InstructionSet:
    """One value that ``QFA_ISA`` takes, and whether this process can use it."""

    name: str
    usable: bool


@dataclass(frozen=True, slots=True)
class LibraryFacts:
    """What a loaded library tells about itself.

    Attributes:
        version: Of the package it was built with.
        instruction_sets: All that it knows, slowest first.
        chosen: The one that sessions will use; empty if ``QFA_ISA`` asks for the impossible.
        problem: Why nothing was chosen; empty if something was.
    """

    version: str
    instruction_sets: tuple[InstructionSet, ...]
    chosen: str
    problem: str


def read_library_facts(path: Path) -> LibraryFacts:
    """Asks the library at ``path``.

    Raises:
        LibraryError: It does not load.
    """
    library = open_library(path)
    library.qfa_version.restype = ctypes.c_char_p
    library.qfa_isa_name.restype = ctypes.c_char_p
    library.qfa_isa_usable.restype = ctypes.c_int32
    names = {number: library.qfa_isa_name(number) for number in _NUMBERS}
    sets = tuple(
        InstructionSet(name.decode(), bool(library.qfa_isa_usable(number)))
        for number, name in names.items()
        if name is not None
    )
    number, message = ctypes.c_int(), ctypes.c_char_p()
    failed = library.qfa_default_isa(ctypes.byref(number), ctypes.byref(message))
    chosen = None if failed else names.get(number.value)
    return LibraryFacts(
        version=library.qfa_version().decode(),
        instruction_sets=sets,
        chosen=chosen.decode() if chosen else "",
        problem=(message.value or b"").decode() if failed else "",
    )
