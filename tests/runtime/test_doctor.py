"""The doctor finds what is wrong and says how to mend it; it never raises."""

from pathlib import Path

import pytest

from qfa_passes.runtime.doctor import run_doctor
from qfa_passes.runtime.library import ENVIRONMENT_VARIABLE, get_library_path
from qfa_passes.runtime.self_test import BOUND


def test_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QFA_ISA", raising=False)
    report = run_doctor()
    assert report.healthy, report.problems
    assert report.library == get_library_path()
    assert report.chosen in {item.name for item in report.instruction_sets if item.usable}
    assert report.instruction_sets[0].name == "scalar"
    assert report.forced == ""
    assert len(report.self_test) == 4
    for case in report.self_test:
        assert case.nmse is not None
        assert 0 < case.nmse <= BOUND


def test_forced_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QFA_ISA", "scalar")
    report = run_doctor()
    assert report.healthy, report.problems
    assert (report.forced, report.chosen) == ("scalar", "scalar")


def test_impossible_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QFA_ISA", "mmx")
    report = run_doctor()
    assert not report.healthy
    assert "mmx" in report.problems[0]
    assert report.chosen == ""
    assert report.self_test == ()


def test_missing_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "none.so"))
    report = run_doctor()
    assert not report.healthy
    assert "QFA-E401" in report.problems[0]
    assert report.library == ""


def test_old_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.__version__", "1.19.2")
    report = run_doctor()
    assert any("too old" in problem for problem in report.problems)


def test_wrong_numbers_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qfa_passes.runtime.self_test.BOUND", 1e-30)
    report = run_doctor()
    assert len(report.problems) == len(report.self_test)
    assert "above" in report.problems[0]
