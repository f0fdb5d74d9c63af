"""What `doctor` reports: one record per thing it looked at."""

from dataclasses import dataclass
from enum import StrEnum


class HealthStatus(StrEnum):
    """How a thing is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """One line of `doctor`.

    Attributes:
        name: What was looked at, such as ``library`` or ``onnxruntime``.
        status: How it is.
        detail: What was found, such as a version or a path.
        hint: What to do if it is not well.
    """

    name: str
    status: HealthStatus
    detail: str
    hint: str = ""
