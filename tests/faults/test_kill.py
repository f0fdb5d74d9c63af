"""A save killed at any moment leaves the old model or the new one, whole (fault 80)."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from qfa_passes.load import read_model
from qfa_passes.save import write_model
from tests.load.small_models import load_reference, two_layers

# The killed process is forked from one that has everything imported, so that kills land inside the save.
KILL_AT_RANDOM = """
    import os, random, signal, sys, time
    from pathlib import Path
    from qfa_passes.load import read_model
    from qfa_passes.save import write_model
    from tests.load.small_models import load_reference, two_layers

    rounds, mode, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    path = folder / "m.onnx"
    protos = [two_layers(width=400, seed=seed) for seed in (1, 2)]
    models = [read_model(proto) for proto in protos]
    start = time.perf_counter()
    write_model(models[0], path, external_data=mode)
    duration = time.perf_counter() - start
    draw = random.Random(5)
    whole, outcomes = 0, [0, 0]
    for turn in range(rounds):
        pid = os.fork()
        if pid == 0:
            for model in (models[turn % 2], models[1 - turn % 2]) * 100:
                write_model(model, path, external_data=mode)
            os._exit(0)
        time.sleep(draw.uniform(0, 3 * duration))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        outcomes[protos.index(load_reference(path))] += 1
    drafts = [p.name for p in folder.iterdir() if p.name.endswith("qfa-tmp")]
    write_model(models[0], path, external_data=mode)
    left = [p.name for p in folder.iterdir() if p.name.endswith("qfa-tmp")]
    print("killed", rounds, "outcomes", outcomes, "drafts", len(drafts), "left", len(left))
    assert not left
    assert load_reference(path) == protos[0]
"""

KILL_AT_CALL = """
    import os, signal, sys
    from pathlib import Path
    from qfa_passes.load import read_model
    from qfa_passes.save import write_model
    from tests.load.small_models import two_layers

    mode, folder, at = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    seen = 0

    def deadly(real):
        def function(*args, **kwargs):
            global seen
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        return function

    model = read_model(two_layers(seed=2))
    calls = (os, "open"), (os, "fsync"), (os, "fdopen"), (os, "close"), (Path, "replace"), (Path, "unlink")
    for owner, name in calls:
        setattr(owner, name, deadly(getattr(owner, name)))
    write_model(model, folder / "m.onnx", external_data=mode)
    os.write(1, b"survived")
"""


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a script in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)


@pytest.mark.parametrize("mode", ["never", "always"])
@pytest.mark.parametrize("rounds", [15, pytest.param(200, marks=pytest.mark.slow)])
def test_kill_at_random_moments(tmp_path: Path, mode: str, rounds: int) -> None:
    """Killed again and again; what the dead left is removed by the next save."""
    result = run(KILL_AT_RANDOM, rounds, mode, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"killed {rounds}" in result.stdout


@pytest.mark.parametrize("mode", ["never", "always"])
def test_kill_at_every_call(tmp_path: Path, mode: str) -> None:
    """Killed right before each call that touches files."""
    path = tmp_path / "m.onnx"
    old, new = two_layers(seed=1), two_layers(seed=2)
    seen = set()
    for at in range(1, 100):
        write_model(read_model(old), path, external_data="auto")
        result = run(KILL_AT_CALL, mode, tmp_path, at)
        if result.stdout == "survived":
            break
        assert result.returncode == -9, result.stderr
        found = load_reference(path)
        assert found in (old, new)
        seen.add(found == new)
    assert seen == {False, True}
    assert load_reference(path) == new
    assert not [item for item in tmp_path.iterdir() if item.name.endswith("qfa-tmp")]


def test_leftovers_of_others_are_kept(tmp_path: Path) -> None:
    """Only our own drafts of this name are removed, and only if nobody writes them."""
    import fcntl

    foreign = [
        ".m.onnx.tmp",
        "m.onnx.0123456789abcdef.data",
        ".other.onnx.00.qfa-tmp",
        "m.onnx.bak",
    ]
    for name in foreign:
        (tmp_path / name).write_bytes(b"precious")
    dead, alive = tmp_path / ".m.onnx.00.qfa-tmp", tmp_path / ".m.onnx.01.qfa-tmp"
    dead.write_bytes(b"left by a killed writer")
    with alive.open("wb") as stream:
        fcntl.flock(stream.fileno(), fcntl.LOCK_EX)
        saved = write_model(read_model(two_layers()), tmp_path / "m.onnx")
        assert alive.exists()
    assert not dead.exists()
    assert saved.stale == (tmp_path / foreign[1],)
    assert all((tmp_path / name).read_bytes() == b"precious" for name in foreign)
    assert (tmp_path / "m.onnx").stat().st_size == saved.nbytes
