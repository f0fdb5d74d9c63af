"""A save that fails leaves everything as it was (faults 81 and 86)."""

import errno
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from qfa_passes.errors import InvalidModelError, SaveError
from qfa_passes.load import read_model
from qfa_passes.save import ExternalData, write_model
from tests.load.refusals import refused
from tests.load.small_models import load_reference, two_layers
from tests.save.test_write_model import snapshot

MODES: tuple[ExternalData, ...] = ("never", "always")


def failing(
    real: Callable[..., object], number: int, at: int, only: str = ""
) -> Callable[..., object]:
    """A function that fails at its n-th call (of those whose first argument contains ``only``)."""
    calls = 0

    def function(*args: object, **kwargs: object) -> object:
        nonlocal calls
        if only in str(args[0] if args else ""):
            calls += 1
            if calls == at:
                raise OSError(number, os.strerror(number))
        return real(*args, **kwargs)

    return function


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
def test_every_system_call_may_fail(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: ExternalData,
    existing: bool,
    call: str,
    number: int,
) -> None:
    """Whichever call fails, the old model is intact and no other file is left."""
    path = tmp_path / "m.onnx"
    if existing:
        write_model(read_model(two_layers(seed=1)), path, external_data=mode)
    before = snapshot(tmp_path)
    model = read_model(two_layers(seed=2))
    for at in range(1, 4 if mode == "always" else 2):
        with monkeypatch.context() as patch:
            if call == "replace":
                if at > (2 if mode == "always" else 1):
                    continue
                patch.setattr(Path, "replace", failing(Path.replace, number, at))
            elif call == "open":
                if at > (2 if mode == "always" else 1):
                    continue
                patch.setattr(os, "open", failing(os.open, number, at, "qfa-tmp"))
            else:
                if at > (2 if mode == "always" else 1):
                    continue
                patch.setattr(os, "fsync", failing(os.fsync, number, at))
            with refused(SaveError, "m.onnx", os.strerror(number), "intact"):
                write_model(model, path, external_data=mode)
        assert snapshot(tmp_path) == before
    write_model(model, path, external_data=mode)
    assert load_reference(path) == two_layers(seed=2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_file_size_limit(tmp_path: Path, mode: ExternalData, share: float) -> None:
    """A real limit of the kernel (RLIMIT_FSIZE) stops the write at any point."""
    path = tmp_path / "m.onnx"
    write_model(read_model(two_layers(seed=1)), path, external_data=mode)
    before = snapshot(tmp_path)
    size = max(len(data) for data in before.values())
    script = f"""
        import resource
        from pathlib import Path
        from qfa_passes.errors import SaveError
        from qfa_passes.load import read_model
        from qfa_passes.save import write_model
        from tests.load.small_models import two_layers
        resource.setrlimit(resource.RLIMIT_FSIZE, ({int(size * share)}, resource.RLIM_INFINITY))
        try:
            write_model(read_model(two_layers(seed=2)), Path({str(path)!r}), external_data={mode!r})
        except SaveError as error:
            print(error, error.exit_code)
    """
    result = run_python(script)
    assert "QFA-E301" in result
    assert "ulimit -f" in result
    assert result.strip().endswith("5")
    assert snapshot(tmp_path) == before


def test_full_file_system(tmp_path: Path) -> None:
    """A real file system without space (tmpfs of 64 KiB, in a mount namespace of its own)."""
    script = f"""
        mount -t tmpfs -o size=64k tmpfs {tmp_path} || exit 77
        cd {Path.cwd()} && {sys.executable} - <<'END'
from pathlib import Path
from qfa_passes.errors import SaveError
from qfa_passes.load import read_model
from qfa_passes.save import write_model
from tests.load.small_models import two_layers, load_reference
folder = Path({str(tmp_path)!r})
write_model(read_model(two_layers(seed=1)), folder / "m.onnx")
for mode in ("always", "never"):
    try:
        write_model(read_model(two_layers(width=200)), folder / "m.onnx", external_data=mode)
    except SaveError as error:
        print(error)
assert load_reference(folder / "m.onnx") == two_layers(seed=1)
print([path.name for path in folder.iterdir()])
END
    """
    result = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode == 77 or "unshare" in result.stderr:
        pytest.skip(f"this system does not allow mounts: {result.stderr.strip()}")
    assert result.stdout.count("No space left on device") == 2, result.stdout + result.stderr
    assert "['m.onnx']" in result.stdout


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_read_only_folder(tmp_path: Path, mode: int) -> None:
    """A folder without write permission, or without any, as an ordinary user meets it."""
    for parent in (tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(parent.stat().st_mode | 0o011)
    (tmp_path / "m.onnx").write_bytes(b"precious")
    tmp_path.chmod(mode)
    script = f"""
        import os
        from pathlib import Path
        from qfa_passes.errors import SaveError
        from qfa_passes.load import read_model
        from qfa_passes.save import write_model
        from tests.load.small_models import two_layers
        model = read_model(two_layers())
        if os.geteuid() == 0:
            os.setuid(65534)
        try:
            write_model(model, Path({str(tmp_path)!r}) / "m.onnx")
        except SaveError as error:
            print(error)
    """
    result = run_python(script)
    tmp_path.chmod(0o755)
    assert "Permission denied" in result
    assert snapshot(tmp_path) == {"m.onnx": b"precious"}


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV])
@pytest.mark.parametrize("mode", MODES)
def test_rename_unsupported(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    mode: ExternalData,
    number: int,
) -> None:
    """Without rename a new file is copied, with a warning; an existing one is not put at risk."""

    def never(self: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "replace", never)
    path = tmp_path / "m.onnx"
    write_model(read_model(two_layers(seed=1)), path, external_data=mode)
    assert "does not rename" in caplog.text
    assert load_reference(path) == two_layers(seed=1)
    before = snapshot(tmp_path)
    assert not [name for name in before if name.endswith("tmp")]
    with refused(SaveError, "m.onnx", "does not rename", "new name"):
        write_model(read_model(two_layers(seed=2)), path, external_data=mode)
    assert snapshot(tmp_path) == before


def test_order_of_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both files are on the disk before either gets its name, and the data is named first."""
    events: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append("sync folder" if name == tmp_path else f"sync {name.suffix}")
        real_fsync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        events.append(f"name {target.suffix}")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_model(read_model(two_layers()), tmp_path / "m.onnx", external_data="always")
    assert events == [
        "sync .qfa-tmp",
        "sync .qfa-tmp",
        "name .data",
        "sync folder",
        "name .onnx",
        "sync folder",
    ]


@pytest.mark.parametrize("mode", MODES)
def test_interrupt_and_changing_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: ExternalData
) -> None:
    """Ctrl-C, and weights that change while they are copied, clean up like any failure."""
    (tmp_path / "out").mkdir()
    source = tmp_path / "in.onnx"
    source.write_bytes(two_layers().SerializeToString())
    model = read_model(source)
    with monkeypatch.context() as patch:

        def interrupt(descriptor: int) -> None:
            raise KeyboardInterrupt

        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_model(model, tmp_path / "out" / "m.onnx", external_data=mode)
    assert not list((tmp_path / "out").iterdir())
    os.truncate(source, 3000)
    with refused(InvalidModelError, "changed"):
        write_model(model, tmp_path / "out" / "m.onnx", external_data=mode)
    assert not list((tmp_path / "out").iterdir())


def run_python(script: str) -> str:
    """Runs a script in a process of its own and returns what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
