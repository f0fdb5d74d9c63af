"""docs/guarantees.md and SECURITY.md name things that exist."""

import re
from pathlib import Path

import pytest

import qfa_passes.errors
from qfa_passes.errors import QfaError
from qfa_passes.load import Limits

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / "guarantees.md", ROOT / "SECURITY.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_are_named_exist(page: Path) -> None:
    """A promise without its test is only a wish."""
    named = re.findall(r"`((?:custom_ops/)?tests(?:/[\w.]+)*)`", page.read_text())
    assert named
    for path in named:
        place = ROOT / path
        assert place.is_file() or any(place.rglob("*test*")), path


def test_kernel_tests_that_are_named_exist() -> None:
    """Those of the table about running the operator are named by their files alone."""
    section = PAGES[0].read_text().split("## Running the operator", 1)[1].split("\n## ", 1)[0]
    named = re.findall(r"`(\w+_test\.cc|\w+\.sh)`", section)
    assert len(set(named)) > 10
    for name in named:
        assert (ROOT / "custom_ops" / "tests" / name).is_file(), name
    lanes = (ROOT / "custom_ops" / "tests" / "run_lanes.sh").read_text()
    for lane in ("powers", "baseline", "aarch64", "valgrind", "tsan"):
        assert f"`{lane}`" in section
        assert f"    {lane})\n" in lanes
    assert (ROOT / "custom_ops" / "fuzz" / "run.sh").is_file()


def test_error_codes_exist() -> None:
    """Every code is one of an error class."""
    codes = {
        kind.code
        for kind in vars(qfa_passes.errors).values()
        if isinstance(kind, type) and issubclass(kind, QfaError)
    }
    named = set(re.findall(r"QFA-E\d+", PAGES[0].read_text()))
    assert named
    assert named <= codes


def test_limits_are_those_of_the_code() -> None:
    """The sentence about limits, made from their defaults."""
    limits = Limits()
    sentence = (
        f"{limits.weight_bytes >> 30} GiB of tensors, {limits.shell_bytes >> 20} MiB of shell, "
        f"{limits.nodes // 10**6} million nodes, {limits.depth} levels, {limits.data_bytes >> 30} GiB of data."
    )
    assert sentence in PAGES[0].read_text()
