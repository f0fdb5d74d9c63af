"""The same for models as exporters write them: a small language model, and the golden copies of the zoo."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto

from qfa_passes import api
from tests.metamorphic.changes import CHANGES
from tests.metamorphic.facts import Facts, facts_of, refusals_of
from tests.zoo.golden_models import EXPECTED, Golden, read_goldens

TINY_LM = Path(__file__).parents[2] / "models" / "tiny_lm" / "tiny_lm.onnx"


def _golden(golden: Golden) -> Callable[[], ModelProto]:
    return golden.model


EXPORTS: dict[str, Callable[[], ModelProto]] = {"tiny_lm": lambda: onnx.load(TINY_LM)}
if EXPECTED.exists():
    EXPORTS |= {golden.name: _golden(golden) for golden in read_goldens()}


FEW = list(EXPORTS)[::4]
"""Enough for every day; all of them are slow."""


@cache
def unchanged(name: str) -> tuple[Facts, int]:
    """Sites and number of refusals of an export as it is."""
    model = EXPORTS[name]()
    return facts_of(model), refusals_of(model)


def check(name: str, change: str) -> None:
    changed = CHANGES[change](EXPORTS[name]())
    assert (facts_of(changed), refusals_of(changed)) == unchanged(name)


@pytest.mark.parametrize("name", FEW)
def test_the_same_sites_after_all_changes(name: str) -> None:
    check(name, "everything_at_once")


def test_nodes_that_nobody_reads_are_no_readers() -> None:
    """This model has nothing to lift or fold before the scale of each head moves to Q."""
    check("swinv2_dyn18_eager", "with_dead_code")


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_sites_of_a_language_model_after(change: str) -> None:
    check("tiny_lm", change)


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", EXPORTS)
def test_the_same_sites_after(name: str, change: str) -> None:
    check(name, change)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTS)
def test_optimizing_twice_changes_nothing_more(name: str) -> None:
    once = api.optimize(EXPORTS[name](), verify="off").model
    twice = api.optimize(once, verify="off").model
    assert twice.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


def test_optimizing_a_language_model_twice_changes_nothing_more() -> None:
    once = api.optimize(EXPORTS["tiny_lm"](), verify="off").model
    twice = api.optimize(once, verify="off").model
    assert twice.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)
