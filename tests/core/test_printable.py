"""Names in messages (fault 18)."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from qfa_passes.core.printable import printable
from qfa_passes.errors import QfaError
from qfa_passes.load import read_model
from tests.load.small_models import chain


@given(st.text(st.characters(), max_size=400) | st.binary(max_size=400), st.integers(20, 200))
def test_output_is_one_harmless_line(text: str | bytes, limit: int) -> None:
    """Whatever comes in: printable, encodable, bounded."""
    shown = printable(text, limit)
    assert shown.isprintable()
    shown.encode("utf-8")
    assert len(shown) <= 10 * limit
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in shown)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/layers.0/attn/MatMul", "/layers.0/attn/MatMul"),
        ("größe 模型", "größe 模型"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("a\nb\r\0", "a\\x0ab\\x0d\\x00"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u2028", "\\u2028"),
        ("\U000e0001", "\\U000e0001"),
        (b"\xff\xfea", "\\xff\\xfea"),
    ],
)
def test_examples(text: str | bytes, shown: str) -> None:
    """Plain text is untouched; dangerous characters become escapes."""
    assert printable(text) == shown


def test_long_names_are_cut_in_the_middle() -> None:
    """Begin and end are what tells names apart."""
    shown = printable("a" * 10**6 + "end")
    assert len(shown) <= 120
    assert shown.startswith("aaa")
    assert shown.endswith("end")


@pytest.mark.parametrize(
    "evil", ["\x1b]0;owned\x07", "a\nQFA-E000 fake line", "\u202e", "x" * 10**6]
)
def test_names_of_a_model(evil: str) -> None:
    """Node, value, operator and domain names come out harmless."""
    models = [
        chain([helper.make_node("Relu", [evil], ["y"], "n")], ["x"], ["y"]),
        chain([helper.make_node("Relu", ["nothing"], ["y"], evil)], ["x"], ["y"]),
        chain([helper.make_node(evil, ["x"], ["y"], domain=evil)], ["x"], ["y"]),
        chain([helper.make_node("Relu", ["x"], [evil])] * 2, ["x"], ["y"]),
        chain([helper.make_node("Relu", ["x"], ["v"])], ["x"], [evil]),
    ]
    for model in models:
        with pytest.raises(QfaError) as caught:
            read_model(model)
        text = str(caught.value)
        assert all(character.isprintable() or character == "\n" for character in text)
        assert "\nQFA-E000" not in text
        assert len(text) < 2000
