"""docs/operator.md repeats the schema, and may not drift from it."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from qfa_passes.core import opspec

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operator.md"
HEADER = ROOT / "custom_ops" / "include" / "qfa" / "qfa.h"


def table(heading: str) -> list[list[str]]:
    """Returns the cells of the first table under a heading, without its two head lines."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n", 1)[1]
    lines = section.split("\n## ", 1)[0].splitlines()
    rows = [line for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


@pytest.mark.parametrize(
    ("heading", "specs"), [("Inputs", opspec.INPUTS), ("Output", opspec.OUTPUTS)]
)
def test_tensors(heading: str, specs: Sequence[opspec.OpInput]) -> None:
    assert table(heading) == [
        [
            f"`{spec.name}`",
            ", ".join(spec.types),
            spec.shape,
            "yes" if spec.required else "no",
            spec.meaning,
        ]
        for spec in specs
    ]


def test_attributes() -> None:
    assert table("Attributes") == [
        [
            f"`{spec.name}`",
            spec.kind,
            "none" if spec.default is None else str(spec.default),
            ", ".join(spec.choices) or "any",
            spec.meaning,
        ]
        for spec in opspec.ATTRIBUTES
    ]


def test_title_and_sizes() -> None:
    text = PAGE.read_text(encoding="utf-8")
    title = f"# `{opspec.DOMAIN}::{opspec.OP_TYPE}`, version {opspec.DOMAIN_VERSION}\n"
    assert text.startswith(title)
    header = HEADER.read_text(encoding="utf-8")
    sizes = {
        name: int(size)
        for name, size in re.findall(r"#define QFA_(KEY_\w+|INT4_\w+) (\d+)", header)
    }
    assert sizes["KEY_BLOCK"] == opspec.KEY_BLOCK
    assert sizes["INT4_KEY_GROUP"] == opspec.KEY_GROUP
    assert f"{sizes['KEY_BLOCK']} and {sizes['KEY_CHUNK']} keys on every processor" in text
