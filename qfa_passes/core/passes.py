"""What a pass promises and what it reports."""

from dataclasses import dataclass
from enum import StrEnum


class Contract(StrEnum):
    """How the model may differ after a pass; verification applies the matching comparison."""

    EXACT = "exact"  # the same numbers
    REFINES_NAN = "refines-nan"  # the same numbers wherever the original has numbers
    QUANTIZES = "quantizes"  # within the bound of the format


@dataclass(frozen=True, slots=True)
class PassResult:
    """What a pass did.

    Attributes:
        name: The pass.
        changes: Number of places changed; 0 means the graph is as it was.
    """

    name: str
    changes: int

    @property
    def modified(self) -> bool:
        """True if the graph changed."""
        return self.changes > 0
