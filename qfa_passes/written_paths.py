"""What a command may write: nothing over a file that it reads, or over another of its own results."""

from collections.abc import Iterable
from pathlib import Path

from qfa_passes.core.printable import printable
from qfa_passes.errors import UsageError

Named = tuple[str, Path]
"""A path and what it is to the user, e.g. ``the input``."""


def check_written(reads: Iterable[Named], writes: Iterable[Named]) -> None:
    """Refuses, before any work is done, a result that would cost the user a file.

    Args:
        reads: The files that the command reads.
        writes: The files that it may write, in order; each must differ from those before it.

    Raises:
        UsageError: Two of them are one file, or a result lies in no folder.
    """
    taken = list(reads)
    for role, target in writes:
        shown = printable(str(target), 600)
        for other, path in taken:
            if _is_same_file(path, target):
                raise UsageError(
                    f"{role} '{shown}' is {other}", hint="give another name; nothing was written"
                )
        if target.is_dir() or not target.parent.is_dir():
            what = "is a folder" if target.is_dir() else "lies in a folder that does not exist"
            raise UsageError(f"{role} '{shown}' {what}", hint="give the path of a file")
        taken.append((role, target))


def _is_same_file(a: Path, b: Path) -> bool:
    return a == b or (a.exists() and b.exists() and a.samefile(b))
