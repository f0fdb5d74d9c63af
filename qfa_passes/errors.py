"""Every error a user can meet. Each says what happened, where, why and what to do, and has a code to search for.

Exit codes of the command line: 0 ok, 1 a bug, 2 usage, 3 nothing matched, 4 verification failed, 5 unsafe or invalid
input, 6 unsupported.
"""

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from qfa_passes.core.outcome import Report


class QfaError(Exception):
    """Base of all errors that are not bugs.

    Args:
        what: What happened, with the place (file, node, tensor, shapes).
        why: The cause, if it is not plain from ``what``.
        hint: What to do about it.
    """

    code: ClassVar[str] = "QFA-E000"
    exit_code: ClassVar[int] = 1
    report: "Report | None" = None
    """What `optimize` had done until then; the command line shows it with the error."""

    def __init__(self, what: str, *, why: str = "", hint: str = "") -> None:
        """Joins the parts into one message."""
        self.what, self.why, self.hint = what, why, hint
        text = what + (f": {why}" if why else "")
        super().__init__(f"{self.code} {text}" + (f"\n  hint: {hint}" if hint else ""))


class UsageError(QfaError):
    """A wrong option or argument."""

    code = "QFA-E001"
    exit_code = 2


class ConfigError(QfaError):
    """A configuration or plan file that does not fit."""

    code = "QFA-E002"
    exit_code = 2


class UnsafePathError(QfaError):
    """A path in a model that leads outside its folder, or a link."""

    code = "QFA-E101"
    exit_code = 5


class InvalidModelError(QfaError):
    """Bytes that are no model, or a model that contradicts itself."""

    code = "QFA-E102"
    exit_code = 5


class InvalidDataError(QfaError):
    """Calibration or verification data that cannot be used."""

    code = "QFA-E103"
    exit_code = 5


class LimitExceededError(QfaError):
    """Input larger or deeper than the stated limits."""

    code = "QFA-E104"
    exit_code = 5


class UnsupportedModelError(QfaError):
    """A valid model that this release cannot process."""

    code = "QFA-E201"
    exit_code = 6


class NothingMatchedError(QfaError):
    """No attention was found, and the caller asked that one must be."""

    code = "QFA-E203"
    exit_code = 3


class SaveError(QfaError):
    """The result could not be written; the old file is intact."""

    code = "QFA-E301"
    exit_code = 5


class LibraryError(QfaError):
    """The custom-op library is missing, foreign or does not load."""

    code = "QFA-E401"
    exit_code = 6


class RuntimeFailureError(QfaError):
    """ONNX Runtime refused or failed to run a model."""

    code = "QFA-E402"
    exit_code = 6


class VerificationError(QfaError):
    """The rewritten model differs from the original by more than its bound."""

    code = "QFA-E501"
    exit_code = 4
