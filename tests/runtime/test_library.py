"""Each way in which the operator library can be unusable has its own clear error."""

import platform
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from qfa_passes.errors import LibraryError
from qfa_passes.runtime import library
from qfa_passes.runtime.elf_header import ElfHeader, canonical_machine, read_elf_header
from qfa_passes.runtime.library import ENVIRONMENT_VARIABLE, get_library_path

GOOD = Path(get_library_path())


def refusal(monkeypatch: pytest.MonkeyPatch, path: Path) -> str:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(path))
    with pytest.raises(LibraryError) as caught:
        get_library_path()
    text = str(caught.value)
    assert text.startswith("QFA-E401")
    assert "hint:" in text
    return text


def with_machine(target: Path, machine: int) -> Path:
    data = bytearray(GOOD.read_bytes())
    data[18:20] = struct.pack("<H", machine)
    target.write_bytes(data)
    return target


def test_found_and_absolute() -> None:
    assert GOOD.is_absolute()
    assert GOOD.is_file()
    assert read_elf_header(GOOD) == ElfHeader(canonical_machine(platform.machine()), 64)


def test_override(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = tmp_path / "another name.so"
    shutil.copy(GOOD, copy)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(copy))
    assert get_library_path() == str(copy)


def test_override_may_be_relative(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copy(GOOD, tmp_path / "x.so")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "x.so")
    assert get_library_path() == str(tmp_path / "x.so")


def test_override_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert ENVIRONMENT_VARIABLE in refusal(monkeypatch, tmp_path / "none.so")


def test_missing_from_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(sys.modules["qfa_passes.runtime"], "__path__", [str(tmp_path)])
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(LibraryError, match="missing") as caught:
        get_library_path()
    assert str(tmp_path) in str(caught.value)
    assert ENVIRONMENT_VARIABLE in str(caught.value)


def test_source_tree_hides_the_installed_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    installed = tmp_path / "site" / "qfa_passes" / "runtime" / "lib"
    installed.mkdir(parents=True)
    shutil.copy(GOOD, installed / library.FILE_NAME)
    monkeypatch.setattr(sys.modules["qfa_passes.runtime"], "__path__", [str(tmp_path)])
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    assert get_library_path() == str(installed / library.FILE_NAME)


@pytest.mark.parametrize(("number", "name"), [(183, "aarch64"), (62, "x86_64"), (243, "riscv64")])
def test_foreign_processor(
    number: int, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = canonical_machine(platform.machine())
    if name == here:
        number, name = 3, "i386"
    text = refusal(monkeypatch, with_machine(tmp_path / "foreign.so", number))
    assert name in text
    assert here in text


@pytest.mark.parametrize(
    "content", [b"", b"MZ", b"\x7fELF", b"#!/bin/sh\necho this is no library\n"]
)
def test_not_a_library(content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "x.so"
    path.write_bytes(content)
    assert "no shared library" in refusal(monkeypatch, path)


def test_cut_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "cut.so"
    path.write_bytes(GOOD.read_bytes()[:400])
    assert "does not load" in refusal(monkeypatch, path)


def test_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx.onnx_cpp2py_export as foreign

    assert "RegisterCustomOps" in refusal(monkeypatch, Path(str(foreign.__file__)))


@pytest.mark.parametrize(("name", "expected"), [("AMD64", "x86_64"), ("arm64", "aarch64")])
def test_machine_names(name: str, expected: str) -> None:
    assert canonical_machine(name) == expected


def test_the_path_costs_no_heavy_import() -> None:
    script = "import qfa_passes, sys; qfa_passes.get_library_path(); print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert {"onnx", "onnxruntime", "numpy", "pydantic"}.isdisjoint(result.stdout.split())
