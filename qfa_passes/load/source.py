"""Bytes that a model is read from: a file that is only ever read by position, or memory."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from qfa_passes.core.printable import printable
from qfa_passes.core.weights import FileIdentity
from qfa_passes.errors import InvalidModelError, UsageError


class ByteSource(Protocol):
    """Random access to bytes of known length."""

    @property
    def size(self) -> int:
        """Length in bytes."""
        ...

    def read(self, offset: int, nbytes: int) -> bytes:
        """Returns exactly ``nbytes`` bytes at ``offset``."""
        ...


class MemorySource:
    """Bytes that the caller holds."""

    def __init__(self, data: bytes) -> None:
        """Keeps a view, not a copy."""
        self.view = memoryview(data)
        self.size = len(data)

    def read(self, offset: int, nbytes: int) -> bytes:
        """Returns a copy of a range."""
        return bytes(self.view[offset : offset + nbytes])


class FileSource:
    """An open regular file. Positioned reads instead of a mapping: a file cut short is an error, not a signal."""

    def __init__(self, descriptor: int, path: Path) -> None:
        """Notes size and identity of the open file."""
        self.descriptor, self.path = descriptor, path
        self.identity = FileIdentity.of(os.fstat(descriptor))
        self.size = self.identity.size

    def read(self, offset: int, nbytes: int) -> bytes:
        """Returns exactly ``nbytes`` bytes at ``offset``.

        Raises:
            InvalidModelError: The file became shorter.
        """
        pieces: list[bytes] = []
        while nbytes > 0:
            piece = os.pread(self.descriptor, min(nbytes, 1 << 30), offset)
            if not piece:
                raise self.changed()
            pieces.append(piece)
            offset += len(piece)
            nbytes -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def check_unchanged(self) -> None:
        """Raises InvalidModelError if somebody wrote to the file since it was opened."""
        if FileIdentity.of(os.fstat(self.descriptor)) != self.identity:
            raise self.changed()

    def changed(self) -> InvalidModelError:
        """The error for a file that changed under us."""
        return InvalidModelError(
            f"'{printable(str(self.path))}' changed while it was read",
            hint="run again when nothing writes to it",
        )


@contextmanager
def open_file(path: Path, what: str) -> Iterator[FileSource]:
    """Opens a file that the user named. Links are followed (the user chose the path); only regular files are read.

    Args:
        path: The file.
        what: What it is to the user, for messages: ``model`` or ``data file``.
    """
    shown = printable(str(path))
    try:
        # Without O_NONBLOCK a pipe without a writer would wait forever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UsageError(
            f"cannot open {what} '{shown}'", why=reason, hint="check the path and its permissions"
        ) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise UsageError(
                f"{what} '{shown}' is not a regular file",
                why=f"it is a {'folder' if stat.S_ISDIR(mode) else 'pipe, socket or device'}",
                hint="give the path of a file",
            )
        yield FileSource(descriptor, path)
    finally:
        os.close(descriptor)
