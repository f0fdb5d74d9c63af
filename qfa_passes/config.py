"""The resolved options of one run."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal, TypeVar

from qfa_passes.core.formats import AttentionFormat, LinearFormat, Rotation, ScaleMode, VerifyLevel
from qfa_passes.core.plan import Plan
from qfa_passes.errors import UsageError

FORMATS: Final = {
    "int8": (AttentionFormat.INT8, LinearFormat.NONE),
    "float": (AttentionFormat.FLOAT, LinearFormat.NONE),
    "fp16": (AttentionFormat.FLOAT, LinearFormat.NONE),
}
"""What --format sets: attention and linear layers. Linear layers join in a later release. Attention that is fused and
not quantized keeps the types of the model, so that fp16 is another word for float."""

Choice = TypeVar("Choice", bound=StrEnum)
Progress = Callable[[str, int, int], None]


class StopAfter(StrEnum):
    """The artefact that is wanted."""

    NORMALIZE = "normalize"  # the float graph in canonical form
    REWRITE = "rewrite"  # the Q/DQ graph, plain ONNX
    FUSE = "fuse"  # the graph with QuantFlashAttention


@dataclass(frozen=True, slots=True)
class Options:
    """Options of `optimize`, checked.

    Attributes:
        attention: Format of attention.
        linear: Format of linear layers.
        scale_mode: Who finds the steps.
        rotation: Rotation of Q and K; None lets measurement choose.
        stop_after: Last stage.
        verify: How much is checked.
        exclude: Sites whose name matches one of these stay in float.
        plan: Plan or plan file to obey, or None.
        max_error: Largest NMSE of a site.
        external_data: Where weights are saved.
        seed: Of inputs made up for verification.
        require_match: Fail if nothing was fused.
        dry_run: Write nothing.
    """

    attention: AttentionFormat
    linear: LinearFormat
    scale_mode: ScaleMode
    rotation: Rotation | None
    stop_after: StopAfter
    verify: VerifyLevel
    exclude: tuple[re.Pattern[str], ...]
    plan: Path | Plan | None
    max_error: float
    external_data: Literal["auto", "always", "never"]
    seed: int
    require_match: bool
    dry_run: bool

    def as_words(self) -> dict[str, str]:
        """The options as text, for the report."""
        words = {item.name: getattr(self, item.name) for item in fields(self)}
        words["exclude"] = " ".join(pattern.pattern for pattern in self.exclude)
        words["rotation"] = self.rotation or "auto"
        words["plan"] = "<Plan>" if isinstance(self.plan, Plan) else self.plan or ""
        return {name: str(value) for name, value in words.items()}


def parse_choice(kind: type[Choice], value: str, option: str) -> Choice:
    """Reads one of the words of an enumeration.

    Raises:
        UsageError: Another word, naming those that exist.
    """
    try:
        return kind(value)
    except ValueError:
        words = ", ".join(member.value for member in kind)
        raise UsageError(f"{option} is '{value}'", hint=f"choose one of: {words}") from None


def parse_patterns(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    """Compiles regular expressions.

    Raises:
        UsageError: One does not compile.
    """
    try:
        return tuple(re.compile(pattern) for pattern in patterns)
    except re.error as error:
        raise UsageError(
            f"exclude pattern '{error.pattern!s}' is no regular expression",
            why=str(error),
            hint="write a backslash before characters that are meant as they are",
        ) from None
