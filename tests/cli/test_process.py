"""The command as a process: start-up time, pipes, signals."""

import json
import os
import pty
import resource
import signal
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.verify.language_model import bigram_model

QFA = [sys.executable, "-m", "qfa_passes"]
TINY = Path(__file__).parents[2] / "models" / "tiny_lm" / "tiny_lm.onnx"


def environment(**changes: str) -> dict[str, str]:
    names = ("CI", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "PYTEST_VERSION")
    return {k: v for k, v in os.environ.items() if k not in names} | changes


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from qfa_passes.__main__ import main; main(['--help']);"
        "heavy = {'onnx', 'onnxruntime', 'numpy', 'onnx_graphsurgeon', 'pydantic', 'torch'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.splitlines()[-1] == "[]"
    # Processor time, for on a busy machine the clock measures the others.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_no_colour_codes_in_a_pipe(tmp_path: Path) -> None:
    onnx.save(bigram_model(), tmp_path / "m.onnx")
    command = [*QFA, "verify", str(tmp_path / "m.onnx"), str(tmp_path / "m.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr == ""


def on_terminal(command: list[str], env: dict[str, str]) -> str:
    """Runs a command whose stdout and stderr are a terminal and returns what it showed."""
    primary, secondary = pty.openpty()
    process = subprocess.Popen(command, stdout=secondary, stderr=secondary, env=env)
    os.close(secondary)
    shown = b""
    while True:
        try:
            piece = os.read(primary, 4096)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(primary)
    assert process.wait() == 0
    return shown.decode()


@pytest.mark.parametrize(
    ("variables", "colours", "bar"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False, True),
        ({"TERM": "xterm", "CI": "true"}, True, False),
        ({"TERM": "dumb"}, False, False),
    ],
    ids=["terminal", "no-color", "ci", "dumb"],
)
def test_terminal(tmp_path: Path, variables: dict[str, str], colours: bool, bar: bool) -> None:
    onnx.save(bigram_model(), tmp_path / "m.onnx")
    command = [*QFA, "verify", str(tmp_path / "m.onnx"), str(tmp_path / "m.onnx")]
    shown = on_terminal(command, environment(**variables))
    assert ("\x1b[32m" in shown) is colours
    assert ("compare" in shown) is bar


def test_reader_that_leaves_early(tmp_path: Path) -> None:
    onnx.save(bigram_model(), tmp_path / "m.onnx")
    process = subprocess.Popen(
        [*QFA, "inspect", str(tmp_path / "m.onnx"), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait() == 141
    assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_signals_end_a_run_and_leave_no_files(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Stops a run while it writes its draft: the file is big, and a hook waits inside."""
    script = (
        "import signal, sys, time\n"
        # Whoever runs the tests in the background may have it ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from qfa_passes.save import commit\n"
        "sync = commit.Draft.sync\n"
        "def wait(self):\n"
        "    print('writing', file=sys.stderr, flush=True)\n"
        "    time.sleep(60)\n"
        "commit.Draft.sync = wait\n"
        "from qfa_passes.__main__ import run\n"
        "run()\n"
    )
    output = tmp_path / "out.onnx"
    arguments = ["optimize", str(TINY), "-o", str(output), "--json", "--stop-after", "normalize"]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stderr is not None
    while "writing" not in process.stderr.readline():
        assert process.poll() is None
    assert list(tmp_path.iterdir())
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert list(tmp_path.iterdir()) == []
    assert "Traceback" not in err
    if number is signal.SIGINT:
        assert json.loads(out)["error"]["exit_code"] == 130


def test_deleted_working_folder(tmp_path: Path) -> None:
    onnx.save(bigram_model(), tmp_path / "m.onnx")
    folder = tmp_path / "gone"
    folder.mkdir()
    command = " ".join([sys.executable, "-m", "qfa_passes", "inspect", "x.onnx", "--json"])
    done = subprocess.run(
        ["sh", "-c", f"cd {folder} && rmdir {folder} && {command}"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(PYTHONPATH=str(Path(__file__).parents[2])),
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["error"]["exit_code"] == 2


def test_names_beyond_the_terminals_encoding(tmp_path: Path) -> None:
    model = bigram_model()
    model.graph.name = "größe"
    path = tmp_path / "größe.onnx"
    onnx.save(model, path)
    command = [*QFA, "verify", str(path), str(path)]
    env = environment(PYTHONIOENCODING="ascii", LC_ALL="C")
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert "gr\\xf6\\xdfe.onnx" in done.stdout
