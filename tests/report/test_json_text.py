"""JSON that every parser accepts, whatever was measured and however things are called."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfa_passes.report.json_text import plain, to_json
from tests.report.records import HOSTILE, comparison, report


def strict(text: str) -> object:
    def refuse(word: str) -> None:
        raise ValueError(word)

    return json.loads(text, parse_constant=refuse)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(VALUES)
def test_any_value_is_valid_json(value: object) -> None:
    strict(to_json(value))


def test_numbers_that_json_lacks_become_words() -> None:
    assert plain([float("nan"), float("inf"), -float("inf"), 1.5]) == [
        "NaN",
        "Infinity",
        "-Infinity",
        1.5,
    ]


def test_numpy_paths_and_tuples() -> None:
    value = {"a": np.float32(0.5), "b": np.arange(2), "c": Path("x/y"), "d": (np.bool_(True), 1)}
    assert plain(value) == {"a": 0.5, "b": [0, 1], "c": "x/y", "d": [True, 1]}


def test_unknown_objects_are_no_json() -> None:
    with pytest.raises(TypeError, match="object"):
        plain(object())


def test_records_keep_every_field() -> None:
    document = strict(to_json(report(HOSTILE)))
    assert set(document) == set(asdict(report()))
    assert document["sites"][0]["name"] == HOSTILE
    assert document["sites"][1]["nmse"] == "NaN"
    assert document["sites"][2]["nmse"] is None
    assert strict(to_json(comparison()))["guard"]["verdict"] == "pass"


def test_only_ascii_reaches_the_terminal() -> None:
    text = to_json(report(HOSTILE))
    assert text.isascii()
    assert "\x1b" not in text
