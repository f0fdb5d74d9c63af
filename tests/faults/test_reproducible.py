"""The same input and options give the same bytes, in any environment (G5, fault 92)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.test_command_line import model_with_attention


@pytest.mark.parametrize("mode", ["never", "always"])
def test_same_bytes_in_any_environment(tmp_path: Path, mode: str) -> None:
    """Hash seed, locale, time zone and current folder leave no trace."""
    source = tmp_path / "in.onnx"
    source.write_bytes(model_with_attention().SerializeToString())
    environments = [
        {"PYTHONHASHSEED": "1", "LC_ALL": "C", "TZ": "UTC"},
        {"PYTHONHASHSEED": "2", "LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo"},
    ]
    contents = []
    for number, environment in enumerate(environments):
        folder = tmp_path / str(number)
        folder.mkdir()
        command = [sys.executable, "-m", "qfa_passes", "optimize", str(source), "-o", "out.onnx"]
        result = subprocess.run(
            [*command, "--verify", "off", "--external-data", mode],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path.cwd()), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        contents.append(
            {
                p.name: p.read_bytes()
                for p in folder.iterdir()
                if ".onnx" in p.name and p.suffix != ".json"
            }
        )
    assert contents[0] == contents[1]
    assert "out.onnx" in contents[0]
