"""Hostile and broken external data (faults 1 to 10): nothing outside the model's folder is ever opened."""

import os
import socket
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from qfa_passes.errors import InvalidModelError, LimitExceededError, QfaError, UnsafePathError
from qfa_passes.load import Limits, read_model
from tests.load.refusals import refused
from tests.load.small_models import (
    chain,
    external_tensor,
    two_layers,
    with_initializer,
    write_external,
)

DATA = bytes(4096)


@pytest.mark.parametrize(
    "location",
    [
        "../../etc/passwd",  # CVE-2022-25882
        "sub/../../x",  # CVE-2024-27318
        "..",
        "sub/..",
        "/etc/passwd",
        "//server/share",
        "C:/x",
        "C:x",
        "c:\\x",
        "\\\\server\\share",
        "..\\x",
        "sub\\..\\..\\x",
        ".",
        "./",
        "w\0.data",
    ],
)
def test_locations_that_leave_the_folder(
    tmp_path: Path, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused by their text alone; no file is opened but the model."""
    path = write_external(tmp_path / "a" / "b", location)
    opened: list[object] = []
    real = os.open

    def spy(name: object, *args: object, **kwargs: object) -> int:
        opened.append(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", spy)
    with refused(UnsafePathError, "'w'"):
        read_model(path)
    assert opened == [path]


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    location=st.lists(
        st.sampled_from(
            ["..", ".", "/", "\\", "C:", "a", "secret", "\0", "~", "..\u2215", "%2e%2e", "|", "\n"]
        ),
        max_size=8,
    ).map("".join)
)
def test_no_location_reads_the_secret(tmp_path: Path, location: str) -> None:
    """Whatever the text, a file outside the folder is never read."""
    (tmp_path / "secret").write_bytes(DATA)
    path = write_external(tmp_path / "inner", location)
    with pytest.raises(QfaError) as caught:
        read_model(path)
    assert caught.value.exit_code == 5


def test_links_are_refused_and_accepted_on_request(tmp_path: Path) -> None:
    """Symbolic links, at the end or on the way, and hard links (CVE-2026-27489, -34447, -34446)."""
    outside = tmp_path / "cache" / "blobs"
    outside.mkdir(parents=True)
    (outside / "real").write_bytes(DATA)
    folder = tmp_path / "cache" / "snapshot"
    folder.mkdir()
    (folder / "final.data").symlink_to(outside / "real")
    (folder / "parent").symlink_to(outside)
    for location in ("final.data", "parent/real"):
        path = write_external(folder, location)
        with refused(UnsafePathError, location, "symbolic link", "cp -rL", "--allow-links-within"):
            read_model(path)
        (tensor,) = (
            model := read_model(path, allow_links_within=tmp_path / "cache")
        ).proto.graph.initializer
        assert bytes(model.weights.view(tensor)) == DATA
        with refused(UnsafePathError, location):
            read_model(path, allow_links_within=folder)
        (tmp_path / "cachet").mkdir(exist_ok=True)
        with refused(UnsafePathError, location):
            read_model(path, allow_links_within=tmp_path / "cachet")
    os.link(outside / "real", folder / "hard.data")
    path = write_external(folder, "hard.data")
    with refused(UnsafePathError, "hard.data", "hard link", "cp "):
        read_model(path)
    assert read_model(path, allow_links_within=folder)


def test_dangling_link_and_link_loop(tmp_path: Path) -> None:
    """A link to nowhere is a link."""
    path = write_external(tmp_path, "w.data")
    (tmp_path / "w.data").symlink_to("w.data")
    with refused(UnsafePathError, "symbolic link"):
        read_model(path)
    with pytest.raises(QfaError):
        read_model(path, allow_links_within=tmp_path)


@pytest.mark.parametrize("kind", ["fifo", "folder", "socket", "missing", "parent is a file"])
def test_things_that_are_no_files(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused at once; a pipe without a writer does not hang."""
    location = "w.data"
    if kind == "fifo":
        os.mkfifo(tmp_path / "w.data")
    elif kind == "folder":
        (tmp_path / "w.data").mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            monkeypatch.chdir(tmp_path)  # the address has room for a short name only
            listener.bind("w.data")
    elif kind == "parent is a file":
        location = "w.data/x"
        (tmp_path / "w.data").write_bytes(DATA)
    path = write_external(tmp_path, location)
    start = time.monotonic()
    with refused(InvalidModelError, location):
        read_model(path)
    assert time.monotonic() - start < 20


def test_device(tmp_path: Path) -> None:
    """A device node in the folder is not read."""
    try:
        os.mknod(tmp_path / "w.data", 0o666 | 0o020000, os.makedev(1, 5))  # like /dev/zero
    except PermissionError:
        pytest.skip("only root makes device nodes")
    with refused(InvalidModelError, "w.data", "device"):
        read_model(write_external(tmp_path, "w.data"))


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": -1},
        {"offset": 1},
        {"offset": 4096},
        {"offset": 2**63},
        {"offset": 2**64 - 4096, "length": 4096},  # the sum wraps to 0 in 64 bits
        {"offset": 2**63 - 1, "length": 4096},
        {"length": -1},
        {"length": 4095},
        {"length": 4097},
        {"length": 2**62},
        {"length": 0},
        {"offset": "0x10"},
        {"offset": "1_0"},
        {"offset": " 1"},
        {"offset": "\u0661"},
        {"offset": ""},
        {"offset": "9" * 10000},
        {"length": "1e3"},
    ],
    ids=lambda entries: str(entries)[:40],
)
def test_ranges_outside_the_file(tmp_path: Path, entries: dict[str, object]) -> None:
    """Offset and length are checked against tensor and file before anything is allocated (CVE-2026-34445)."""
    with refused(InvalidModelError, "'w'"):
        read_model(write_external(tmp_path, "w.data", DATA, **entries))


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    offset=st.integers(-10, 5000) | st.integers(),
    length=st.none() | st.integers(-10, 5000) | st.integers(),
)
def test_ranges_are_accepted_exactly_if_they_fit(
    tmp_path: Path, offset: int, length: int | None
) -> None:
    """The whole rule, against an independent statement of it."""
    entries = {"offset": offset} | ({} if length is None else {"length": length})
    path = write_external(tmp_path, "w.data", bytes(5000), **entries)
    valid = 0 <= offset <= 5000 - 4096 and length in (None, 4096)
    if valid:
        read_model(path)
    else:
        with pytest.raises(InvalidModelError):
            read_model(path)


def test_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Unknown keys are ignored with one capped warning; nothing is ever set by name; a key twice is refused."""
    path = write_external(
        tmp_path, "w.data", DATA, __class__="x", basepath="/etc", checksum="0" * 40
    )
    read_model(path)
    assert "__class__" in caplog.text
    tensor = external_tensor("w.data")
    for number in range(100_000):
        tensor.external_data.add(key=f"k{number}\x1b[31m", value="v")
    path.write_bytes(with_initializer(tensor).SerializeToString())
    caplog.clear()
    start = time.monotonic()
    read_model(path)
    assert time.monotonic() - start < 30
    assert len(caplog.records) == 1
    assert "100000 unknown keys" in caplog.text
    assert len(caplog.text) < 1000
    assert "\x1b" not in caplog.text
    tensor = external_tensor("w.data")
    tensor.external_data.add(key="location", value="../x")
    path.write_bytes(with_initializer(tensor).SerializeToString())
    with refused(InvalidModelError, "location", "twice"):
        read_model(path)
    tensor = external_tensor("w.data")
    del tensor.external_data[:]
    path.write_bytes(with_initializer(tensor).SerializeToString())
    with refused(InvalidModelError, "names no file"):
        read_model(path)


def test_overlapping_ranges_count_in_full(tmp_path: Path) -> None:
    """Sharing bytes is allowed, but does not get around the budget."""
    tensors = []
    for number in range(100):
        tensors.append(external_tensor("w.data"))
        tensors[-1].name = f"w{number}"
    proto = chain([helper.make_node("Identity", ["x"], ["y"])], ["x"], ["y"], initializer=tensors)
    (tmp_path / "w.data").write_bytes(DATA)
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    assert len(list(read_model(path).weights)) == 100
    with refused(LimitExceededError, "w50"):
        read_model(path, limits=Limits(weight_bytes=50 * 4096))


@pytest.mark.parametrize("change", ["truncate", "rewrite", "replace", "remove", "link"])
@pytest.mark.parametrize("access", ["view", "chunks"])
@pytest.mark.parametrize("inline", [False, True])
def test_files_that_change_later(tmp_path: Path, change: str, access: str, inline: bool) -> None:
    """A file that changes between check and use is an error, not a crash or silent garbage."""
    if inline:
        path = tmp_path / "m.onnx"
        path.write_bytes(two_layers().SerializeToString())
        victim = path
    else:
        path = write_external(tmp_path, "w.data", DATA)
        victim = tmp_path / "w.data"
    model = read_model(path)
    tensor = model.proto.graph.initializer[0]
    if change == "truncate":
        os.truncate(victim, 100)
    elif change == "rewrite":
        time.sleep(0.02)  # the clock of file times is coarse
        victim.write_bytes(bytes(len(victim.read_bytes())))
    elif change == "replace":
        (tmp_path / "new").write_bytes(victim.read_bytes())
        (tmp_path / "new").replace(victim)
    else:
        victim.rename(tmp_path / "moved")
        if change == "link":
            victim.symlink_to("/dev/zero")
    with refused(InvalidModelError, victim.name, "changed"):
        if access == "view":
            bytes(model.weights.view(tensor))
        else:
            list(model.weights.chunks(model.weights.source(tensor)))


def test_truncated_after_mapping(tmp_path: Path) -> None:
    """A file cut short after its first use is noticed at the next one, without SIGBUS."""
    path = write_external(tmp_path, "w.data", DATA)
    model = read_model(path)
    (tensor,) = model.proto.graph.initializer
    assert bytes(model.weights.view(tensor)) == DATA
    os.truncate(tmp_path / "w.data", 0)
    with refused(InvalidModelError, "w.data"):
        model.weights.view(tensor)
