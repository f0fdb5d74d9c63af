"""What an ELF file says about itself in its first bytes: enough to tell why a library cannot be loaded here."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MACHINES: Final = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
_SYNONYMS: Final = {"amd64": "x86_64", "arm64": "aarch64", "i686": "i386"}
_HEADER_BYTES: Final = 20


@dataclass(frozen=True, slots=True)
class ElfHeader:
    """The fields that decide whether a process can load the file.

    Attributes:
        machine: Processor family as ``platform.machine()`` names it, or ``machine <number>``.
        bits: 32 or 64.
    """

    machine: str
    bits: int


def read_elf_header(path: Path) -> ElfHeader | None:
    """Returns the header, or None if the file is no ELF file.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEADER_BYTES)
    if len(head) < _HEADER_BYTES or head[:4] != b"\x7fELF":
        return None
    order = "<" if head[5] == 1 else ">"
    (number,) = struct.unpack_from(order + "H", head, 18)
    return ElfHeader(_MACHINES.get(number, f"machine {number}"), 64 if head[4] == 2 else 32)


def canonical_machine(name: str) -> str:
    """Returns the name that `ElfHeader.machine` uses for what ``platform.machine()`` returned."""
    return _SYNONYMS.get(name.lower(), name.lower())
