"""The C++ side of the schema is what the Python side would write today."""

from pathlib import Path

from qfa_passes.core import opspec

GENERATED = Path(__file__).parents[2] / "custom_ops" / "ort" / "opspec.inc"


def test_generated_file_is_up_to_date() -> None:
    assert GENERATED.read_text() == opspec.to_cpp(), (
        "run: python -m qfa_passes.core.opspec > custom_ops/ort/opspec.inc"
    )


def test_only_the_adapter_knows_onnxruntime() -> None:
    sources = [
        path
        for pattern in ("*.h", "*.cc", "*.inc")
        for path in (GENERATED.parents[1]).rglob(pattern)
        if path.parent.name != "ort"
    ]
    assert sources
    for path in sources:
        text = path.read_text()
        assert "onnxruntime" not in text, path
        assert '"ort/' not in text, path
