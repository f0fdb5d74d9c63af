"""The command: artefacts, exit codes and report.json of whole runs."""

import json
from pathlib import Path

import onnx
import pytest

from qfa_passes import api
from qfa_passes.__main__ import main
from qfa_passes.plan.plan_file import write_plan
from tests.end_to_end.outcomes import fused_count, operators
from tests.reference.decoders import Decoder

DECODER = Decoder()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(DECODER.model(), path)
    return path


def optimize(model: Path, *options: str) -> tuple[int, Path]:
    """Runs the command; returns its exit code and the path of the result."""
    target = model.with_name("out.onnx")
    return main(["optimize", str(model), "-o", str(target), "--quiet", *options]), target


def report_of(target: Path) -> dict:
    (path,) = target.parent.glob("*report.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("stop_after", "wanted"),
    [
        ("normalize", {"Softmax": 2, "QuantizeLinear": 0, "QuantFlashAttention": 0}),
        ("rewrite", {"Softmax": 2, "QuantizeLinear": 6, "QuantFlashAttention": 0}),
        ("fuse", {"Softmax": 0, "QuantizeLinear": 0, "QuantFlashAttention": 2}),
    ],
)
def test_three_artefacts(model: Path, stop_after: str, wanted: dict[str, int]) -> None:
    code, target = optimize(model, "--stop-after", stop_after)
    assert code == 0
    found = operators(onnx.load(target))
    assert {name: found.count(name) for name in wanted} == wanted


def test_main_job_with_the_words_of_the_manual(model: Path) -> None:
    code, target = optimize(model, "--format", "int8", "--attention", "int8", "--linear", "none")
    assert code == 0
    assert fused_count(onnx.load(target)) == 2
    report = report_of(target)
    assert [site["status"] for site in report["sites"]] == ["fused", "fused"]
    assert all(site["nmse"] < site["bound"] for site in report["sites"])
    assert report["error"] is None


@pytest.mark.parametrize(
    "options", [("--attention", "none"), ("--exclude", "attention"), ("--max-error", "0")]
)
def test_nothing_fused_and_one_required(model: Path, options: tuple[str, ...]) -> None:
    code, target = optimize(model, "--require-match", *options)
    assert code == 3
    assert not target.exists()
    report = report_of(target)
    assert report["error"]["code"] == "QFA-E203"
    assert len(report["sites"]) == 2


def test_nothing_fused_and_none_required(model: Path) -> None:
    code, target = optimize(model, "--exclude", "_0", "--exclude", "_1")
    assert code == 0
    assert operators(onnx.load(target)).count("Softmax") == 2


def test_plan_file(model: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    write_plan(api.optimize(model).plan, plan)
    plan.write_text(plan.read_text().replace('format = "int8"', 'format = "none"', 1))
    code, target = optimize(model, "--plan", str(plan))
    assert code == 0
    assert [site["status"] for site in report_of(target)["sites"]] == ["exempt", "fused"]
    assert fused_count(onnx.load(target)) == 1


def test_plan_of_another_model(model: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    write_plan(api.optimize(Decoder(heads=2).model()).plan, plan)
    code, target = optimize(model, "--plan", str(plan))
    assert code == 2
    assert not target.exists()
