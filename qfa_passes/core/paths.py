"""Paths that stay valid when the current folder changes."""

import os
from pathlib import Path

from qfa_passes.errors import UsageError


def absolute(path: str | os.PathLike[str]) -> Path:
    """Returns an absolute path; links and ``..`` are left to the system.

    Raises:
        UsageError: The path is relative and the current folder was deleted.
    """
    try:
        return Path(path).absolute()
    except OSError as error:
        raise UsageError(
            "the current folder does not exist any more",
            why=error.strerror or str(error),
            hint="change to a folder that exists, or give absolute paths",
        ) from error
