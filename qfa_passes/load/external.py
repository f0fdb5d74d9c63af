"""Finds the bytes of external tensors without ever leaving the model's folder."""

import errno
import logging
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from onnx import TensorProto

from qfa_passes.core.printable import printable
from qfa_passes.core.weights import FileSlice
from qfa_passes.errors import InvalidModelError, UnsafePathError
from qfa_passes.load.source import FileSource

_LOG = logging.getLogger(__name__)

_KNOWN_KEYS: Final = frozenset(("location", "offset", "length", "checksum", "basepath"))
_NUMBER: Final = re.compile(r"[0-9]{1,19}", re.ASCII)
_DRIVE: Final = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True, slots=True)
class Reference:
    """What an external tensor says about its bytes; ``length`` is None if it says nothing."""

    location: str
    offset: int
    length: int | None


def read_reference(tensor: TensorProto) -> Reference:
    """Parses the external-data entries of a tensor.

    ``checksum`` and ``basepath`` are ignored, as are unknown keys (with one warning).

    Raises:
        InvalidModelError: No location, a key twice, or an offset or length that is no plain number.
    """
    entries: dict[str, str] = {}
    unknown: list[str] = []
    for entry in tensor.external_data:
        if entry.key not in _KNOWN_KEYS:
            unknown.append(entry.key)
        elif entry.key in entries:
            raise _bad_reference(tensor, f"the key '{entry.key}' appears twice")
        else:
            entries[entry.key] = entry.value
    if unknown:
        shown = ", ".join(repr(printable(key, 40)) for key in unknown[:3])
        _LOG.warning(
            "external data of tensor '%s' has %d unknown keys, ignored: %s%s",
            printable(tensor.name),
            len(unknown),
            shown,
            ", ..." if len(unknown) > 3 else "",
        )
    location = entries.get("location", "")
    if not location or not isinstance(location, str):
        raise _bad_reference(tensor, "it names no file (key 'location')")
    for key in ("offset", "length"):
        value = entries.get(key, "0")
        if not isinstance(value, str) or not _NUMBER.fullmatch(value):
            raise _bad_reference(
                tensor, f"{key} {printable(value, 40)!r} is not a number from 0 to 2**63"
            )
    length = entries.get("length")
    return Reference(
        location, int(entries.get("offset", "0")), None if length is None else int(length)
    )


class ExternalFiles:
    """Opens the data files of one model, each checked once.

    Args:
        base: Folder of the model; None if the model came from memory and no folder was given.
        allow_links_within: Links (symbolic or hard) are accepted if they lead to a file inside this folder.
    """

    def __init__(self, base: Path | None, allow_links_within: Path | None) -> None:
        """Opens nothing yet."""
        self.base = base
        self.allowed = (
            None if allow_links_within is None else Path(os.path.realpath(allow_links_within))
        )
        self.files: dict[str, FileSource] = {}
        self._open: FileSource | None = None

    def locate(self, tensor: TensorProto, expected: int) -> FileSlice:
        """Returns where the ``expected`` bytes of an external tensor are, after every check.

        Raises:
            UnsafePathError: The location leads out of the model's folder or over a link.
            InvalidModelError: The file is missing or too short, or the range contradicts the tensor.
        """
        reference = read_reference(tensor)
        source = self.files.get(reference.location)
        if source is None:
            source = self.files[reference.location] = self._check_file(tensor, reference.location)
        if reference.length is not None and reference.length != expected:
            raise _bad_reference(
                tensor,
                f"length {reference.length:,}, but type and dimensions need {expected:,} bytes",
            )
        if reference.offset + expected > source.size:
            raise _bad_reference(
                tensor,
                f"bytes {reference.offset:,} to {reference.offset + expected:,} are wanted, "
                f"but '{printable(reference.location)}' has only {source.size:,}",
            )
        return FileSlice(source.path, reference.offset, expected)

    def read(self, tensor: TensorProto, place: FileSlice) -> bytes:
        """Returns the bytes of a located tensor."""
        location = read_reference(tensor).location
        checked = self.files[location]
        if self._open is None or self._open.path != checked.path:
            self.close()
            self._open = FileSource(self._walk(tensor, location), checked.path)
        if self._open.identity != checked.identity:
            raise self._open.changed()
        return self._open.read(place.offset, place.nbytes)

    def close(self) -> None:
        """Closes the file that was read last."""
        if self._open is not None:
            os.close(self._open.descriptor)
            self._open = None

    def _check_file(self, tensor: TensorProto, location: str) -> FileSource:
        """Opens a data file, notes its identity and closes it."""
        descriptor = self._walk(tensor, location)
        try:
            assert self.base is not None
            path = Path(
                os.path.realpath(self.base / location) if self.allowed else self.base / location
            )
            return FileSource(descriptor, path)
        finally:
            os.close(descriptor)

    def _walk(self, tensor: TensorProto, location: str) -> int:
        """Opens a location component by component, so that no link can be swapped in between check and use."""
        if self.base is None:
            raise InvalidModelError(
                f"the bytes of tensor '{printable(tensor.name)}' are in a file "
                f"('{printable(location)}'), but the model came from memory",
                why="a relative location has no meaning without a folder, and the current one is not guessed",
                hint="pass the path of the .onnx file, or load it with its external data",
            )
        parts = _safe_parts(tensor, location)
        try:
            try:
                return _open_beneath(self.base, parts)
            except _LinkError as link:
                return self._follow(location, parts, link)
        except OSError as error:
            raise InvalidModelError(
                f"cannot open the data file '{printable(location)}' of tensor '{printable(tensor.name)}'",
                why=error.strerror or str(error),
                hint=f"put the file into '{printable(str(self.base))}'; a model and its data move together",
            ) from error

    def _follow(self, location: str, parts: tuple[str, ...], link: "_LinkError") -> int:
        """Opens what a link leads to, if the user allowed that folder."""
        assert self.base is not None
        target = Path(os.path.realpath(self.base.joinpath(*parts)))
        if self.allowed is None or not target.is_relative_to(self.allowed):
            raise _link_refused(location, link, self.base) from None
        try:
            return _open_beneath(
                self.allowed, target.relative_to(self.allowed).parts, hard_links=True
            )
        except _LinkError:
            # The path was resolved, so no link was left; either it leads to itself or it changed meanwhile.
            raise OSError(errno.ELOOP, "its links lead in a circle") from None


class _LinkError(Exception):
    """A component is a link; ``args`` are the component and the kind of link."""


def _safe_parts(tensor: TensorProto, location: str) -> tuple[str, ...]:
    """Splits a location; refuses every way to leave the folder on any system."""
    parts = tuple(part for part in location.split("/") if part not in ("", "."))
    reason = ""
    if "\0" in location:
        reason = "it contains a NUL character"
    elif location.startswith("/") or _DRIVE.match(location):
        reason = "it is an absolute path"
    elif "\\" in location:
        reason = "it contains a backslash, which separates folders on Windows"
    elif ".." in parts:
        reason = "it contains '..'"
    elif not parts:
        reason = "it names no file"
    if reason:
        raise UnsafePathError(
            f"tensor '{printable(tensor.name)}' wants its bytes from '{printable(location)}'",
            why=f"{reason}; data files must lie in the model's folder",
            hint="do not trust this file; if it is yours, save it again with plain relative locations",
        )
    return parts


def _open_beneath(base: Path, parts: tuple[str, ...], hard_links: bool = False) -> int:
    """Opens a regular file below ``base`` without following any link.

    Raises:
        _LinkError: A component is a symbolic link, or the file has several names and ``hard_links`` is false.
        OSError: It cannot be opened, or is no regular file.
    """
    folder = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            _refuse_symlink(folder, part)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner = os.open(part, flags, dir_fd=folder)
            os.close(folder)
            folder = inner
        _refuse_symlink(folder, parts[-1])
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(parts[-1], flags, dir_fd=folder)
    finally:
        os.close(folder)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is a directory, pipe, socket or device, not a regular file")
    if status.st_nlink > 1 and not hard_links:
        os.close(descriptor)
        raise _LinkError(parts[-1], "hard link")
    return descriptor


def _refuse_symlink(folder: int, part: str) -> None:
    """Tells a link from other failures; O_NOFOLLOW still guards the open that follows."""
    if stat.S_ISLNK(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode):
        raise _LinkError(part, "symbolic link")


def _link_refused(location: str, link: _LinkError, base: Path) -> UnsafePathError:
    """The error for a data file behind a link."""
    part, kind = link.args
    shown = printable(location)
    cause = (
        "the layout of a Hugging Face cache"
        if kind == "symbolic link"
        else "as uv and conda make them"
    )
    return UnsafePathError(
        f"weights '{shown}': '{printable(part)}' is a {kind} ({cause})",
        why="a link can lead to any file of this machine, so none is followed unasked",
        hint="pass --allow-links-within DIR (allow_links_within=DIR) with the folder that holds the real file, "
        f"or copy: cp -rL '{printable(str(base))}' NEW_FOLDER",
    )


def _bad_reference(tensor: TensorProto, why: str) -> InvalidModelError:
    """The error for unusable external-data entries."""
    return InvalidModelError(
        f"external data of tensor '{printable(tensor.name)}' is invalid",
        why=why,
        hint="the data file is truncated or belongs to another model; get both files again",
    )
