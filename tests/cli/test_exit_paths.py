"""Every way a command can end: exit code, message, JSON, and no traceback unless asked for."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qfa_passes import api, errors
from qfa_passes.__main__ import main
from tests.report.records import report

Capture = pytest.CaptureFixture[str]


def failing(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, name: str = "inspection"
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(api, name, fail)


ALL_ERRORS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.QfaError)
]


@pytest.mark.parametrize("kind", ALL_ERRORS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["plain", "json"])
def test_errors(
    kind: type[errors.QfaError],
    flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    failing(monkeypatch, kind("what\x1b[31m", why="why", hint="hint"))
    assert main(["inspect", "x.onnx", *flags]) == kind.exit_code
    out, err = capsys.readouterr()
    assert f"error: {kind.code} what\\x1b[31m: why\n  hint: hint\n" in err
    assert "Traceback" not in err
    if flags:
        assert json.loads(out)["error"] == {
            "code": kind.code,
            "exit_code": kind.exit_code,
            "what": "what\x1b[31m",
            "why": "why",
            "hint": "hint",
        }
    else:
        assert out == ""


def test_exit_codes_are_the_documented_ones() -> None:
    assert {kind.code: kind.exit_code for kind in ALL_ERRORS} == {
        "QFA-E000": 1,
        "QFA-E001": 2,
        "QFA-E002": 2,
        "QFA-E101": 5,
        "QFA-E102": 5,
        "QFA-E103": 5,
        "QFA-E104": 5,
        "QFA-E201": 6,
        "QFA-E203": 3,
        "QFA-E301": 5,
        "QFA-E401": 6,
        "QFA-E402": 6,
        "QFA-E501": 4,
    }


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (RuntimeError("odd [bold]"), 1, "RuntimeError: odd [bold]"),
        (PermissionError(13, "Permission denied", "x.onnx"), 2, "'x.onnx': Permission denied"),
        (MemoryError(), 1, "out of memory"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["plain", "json"])
def test_other_ends(
    error: BaseException,
    code: int,
    words: str,
    flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    failing(monkeypatch, error)
    assert main(["inspect", "x.onnx", *flags]) == code
    out, err = capsys.readouterr()
    assert words in err
    assert "Traceback" not in err
    if flags:
        assert json.loads(out)["error"]["exit_code"] == code


def test_a_bug_says_how_to_report_it_and_verbose_shows_where(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    failing(monkeypatch, ZeroDivisionError("division by zero"))
    assert main(["inspect", "x.onnx", "-v"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "qfa doctor --json" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["optimize", "x.onnx", "--no-such-option"],
        ["optimize", "x.onnx", "-o", "y.onnx", "--format", "int3"],
        ["optimize", "x.onnx", "-o", "y.onnx", "--max-error", "-1"],
        ["optimize", "x.onnx"],
        ["optimize"],
        ["verify", "x.onnx"],
        ["no-such-command"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["plain", "json"])
def test_usage_errors(arguments: list[str], flags: list[str], capsys: Capture) -> None:
    assert main([*arguments, *flags]) == 2
    out, err = capsys.readouterr()
    assert "error: QFA-E001" in err
    assert "hint:" in err
    if flags:
        document = json.loads(out)
        assert (document["error"]["code"], document["error"]["exit_code"]) == ("QFA-E001", 2)


def test_no_arguments_show_the_help(capsys: Capture) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert "optimize" in out + err
    assert "error" not in err


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not read in these tests")
    return path


OutputOf = Callable[[Path], Path]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (lambda model: model, "is the input"),
        (lambda model: model.parent / "link.onnx", "is the input"),
        (lambda model: model.parent / "." / "model.onnx", "is the input"),
        (lambda model: model.parent, "is a folder"),
        (lambda model: model.parent / "none" / "out.onnx", "does not exist"),
    ],
    ids=["same", "link", "dot", "folder", "no-folder"],
)
def test_outputs_that_would_do_harm(
    model: Path, output: OutputOf, words: str, capsys: Capture
) -> None:
    (model.parent / "link.onnx").symlink_to(model)
    assert main(["optimize", str(model), "-o", str(output(model))]) == 2
    assert words in capsys.readouterr().err
    assert model.read_bytes() == b"not read in these tests"


def test_failed_run_leaves_its_report(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    error = errors.VerificationError("too far")
    error.report = report()
    failing(monkeypatch, error, "optimize")
    output = model.parent / "out.onnx"
    assert main(["optimize", str(model), "-o", str(output), "--json"]) == 4
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((model.parent / "out.report.json").read_text())
    assert printed == written
    assert written["error"]["code"] == "QFA-E501"
    assert written["summary"]["found"] == 3
    assert not output.exists()


def test_early_failure_keeps_the_old_report(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = model.parent / "out.report.json"
    old.write_text("{}")
    failing(monkeypatch, errors.InvalidModelError("no model"), "optimize")
    assert main(["optimize", str(model), "-o", str(model.parent / "out.onnx")]) == 5
    assert old.read_text() == "{}"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--save-plan", "model.onnx"], "the saved plan 'model.onnx' is the input"),
        (["--save-plan", "out.onnx"], "the saved plan 'out.onnx' is the output"),
        (["--save-plan", "out.report.json"], "the saved plan 'out.report.json' is the report"),
        (["--save-plan", "none/plan.toml"], "lies in a folder that does not exist"),
        (["--save-plan", "."], "the saved plan '.' is a folder"),
        (
            ["--calib", "data.npz", "--save-plan", "data.toml"],
            "the array file of the saved plan 'data.npz' is the calibration data",
        ),
        (["--plan", "out.onnx"], "the output 'out.onnx' is the plan"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_nothing_is_written_over_what_is_read(
    model: Path, options: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(model.parent)
    assert main(["optimize", "model.onnx", "-o", "out.onnx", *options]) == 2
    assert words in capsys.readouterr().err
    assert [path.name for path in model.parent.iterdir()] == ["model.onnx"]
    assert model.read_bytes() == b"not read in these tests"


def test_hints_name_the_command(capsys: Capture) -> None:
    assert main(["optimize", "x.onnx", "--format", "int3"]) == 2
    err = capsys.readouterr().err
    assert "'int3' is not one of 'int8'" in err
    assert "Value error" not in err
    assert "see `qfa optimize --help`" in err
