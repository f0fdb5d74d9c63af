"""report.json: its place, its content, and that it is never half there."""

import json
from pathlib import Path

import pytest

from qfa_passes.errors import SaveError, VerificationError
from qfa_passes.report.report_file import (
    REPORT_VERSION,
    report_document,
    report_path,
    write_report,
)
from tests.report.records import comparison, report


def test_place() -> None:
    assert report_path(Path("a b/model.qfa.onnx")) == Path("a b/model.qfa.report.json")


def test_content(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_report(report(), path)
    document = json.loads(path.read_text())
    assert document["schema_version"] == REPORT_VERSION
    assert document["summary"] == {
        "found": 3,
        "fused": 1,
        "restored": 1,
        "exempt": 0,
        "refused": 1,
        "fused_int8": 1,
        "fused_float": 0,
    }
    assert document["error"] is None
    assert document["timings"][1] == {"stage": "save", "seconds": 1.0}
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.json"]


def test_error_and_whole_model(tmp_path: Path) -> None:
    done = report()
    done.comparison = comparison()
    document = report_document(done, VerificationError("too far", why="KLD", hint="exempt"))
    assert document["error"] == {
        "code": "QFA-E501",
        "exit_code": 4,
        "what": "too far",
        "why": "KLD",
        "hint": "exempt",
    }
    assert document["comparison"]["language"]["tokens"] == 8176


def test_old_report_survives_a_failed_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.json"
    path.write_text("old")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(SaveError, match="No space left"):
        write_report(report(), path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.json"]


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(SaveError):
        write_report(report(), tmp_path / "none" / "r.json")
