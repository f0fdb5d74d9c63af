"""Puts finished files in place: either the complete new file is there afterwards, or the old one."""

import errno
import fcntl
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from qfa_passes.core.printable import printable
from qfa_passes.errors import SaveError

_LOG = logging.getLogger(__name__)
_SUFFIX: Final = ".qfa-tmp"
_NO_RENAME: Final = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EXDEV, errno.EPERM)


@dataclass(frozen=True, slots=True)
class Draft:
    """An open temporary file beside its future place."""

    stream: BinaryIO
    path: Path

    def sync(self) -> None:
        """Makes sure that the bytes are on the disk."""
        self.stream.flush()
        os.fsync(self.stream.fileno())


@contextmanager
def draft(folder: Path, name: str) -> Iterator[Draft]:
    """Opens a temporary file in ``folder``; it is gone afterwards unless it was put in place.

    The file is locked while its writer lives, so that what a killed writer left can be told from work in progress.
    """
    with ExitStack() as stack:
        path, descriptor = _create_locked(folder, name)
        stack.callback(_unlink_quietly, path)
        stream = stack.enter_context(os.fdopen(descriptor, "w+b", buffering=1 << 20))
        yield Draft(stream, path)


def _create_locked(folder: Path, name: str) -> tuple[Path, int]:
    """Creates an empty temporary file that is locked by us."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        path = folder / f"{_draft_prefix(name)}{secrets.token_hex(8)}{_SUFFIX}"
        descriptor = os.open(path, flags, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            return path, descriptor  # a file system without locks: leftovers are simply kept there
        # Before the lock was taken, another writer may have held this file for a dead writer's and deleted it.
        if os.fstat(descriptor).st_nlink:
            return path, descriptor
        os.close(descriptor)


@contextmanager
def commit_lock(folder: Path) -> Iterator[None]:
    """Keeps other writers from putting files in place in ``folder``; without effect where folders have no locks."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def put_in_place(done: Draft, target: Path) -> None:
    """Renames a synced draft to ``target``, replacing a file there in one step, and syncs the folder.

    A file system that cannot rename gets a copy instead, but only if nothing is there yet: replacing by copy could
    leave half a file.
    """
    try:
        done.path.replace(target)
    except OSError as error:
        if error.errno not in _NO_RENAME:
            raise
        if os.path.lexists(target):
            raise SaveError(
                f"cannot replace '{printable(str(target))}'",
                why=f"this file system does not rename files ({error.strerror}), so the old one could be lost",
                hint="save under a new name or on another file system",
            ) from error
        _LOG.warning(
            "'%s': this file system does not rename files (%s); copied instead, which a crash can leave half done",
            printable(str(target)),
            error.strerror,
        )
        _copy(done, target)
    sync_folder(target.parent)


def same_content(one: Path, other: Path) -> bool:
    """True if both are regular files (not links) of equal bytes."""
    if not stat.S_ISREG(_mode(other)) or one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while True:
            piece = first.read(1 << 20)
            if piece != second.read(1 << 20):
                return False
            if not piece:
                return True


def remove_leftovers(folder: Path, name: str) -> None:
    """Deletes drafts of ``name`` whose writer is dead. Nothing else is ever deleted."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.name.startswith(_draft_prefix(name)) and path.name.endswith(_SUFFIX):
                _remove_if_abandoned(path)


def sync_folder(folder: Path) -> None:
    """Makes a rename durable; some file systems cannot, and then it is as durable as they make it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _draft_prefix(name: str) -> str:
    """Begin of the names of drafts of ``name``, short enough for any file system."""
    return f".{name.encode(errors='surrogateescape')[:100].decode(errors='ignore')}."


def _remove_if_abandoned(path: Path) -> None:
    """Deletes a draft if its lock is free."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _mode(path: Path) -> int:
    """File type and permissions of a path itself, 0 if there is nothing."""
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return 0


def _copy(done: Draft, target: Path) -> None:
    """Copies a draft to a place where nothing is; removes an unfinished copy."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as stream, done.path.open("rb") as source:
            shutil.copyfileobj(source, stream, 1 << 20)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        _unlink_quietly(target)
        raise


def _unlink_quietly(path: Path) -> None:
    """Removes a file that may be gone already."""
    with suppress(OSError):
        path.unlink()
