"""The wheel: one per platform for every Python 3, with the library, the marker of typing and nothing else."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_wheel(tmp_path: Path) -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "-w",
            str(tmp_path),
            str(ROOT),
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert re.fullmatch(r"qfa_passes-\d+\.\d+\.\d+-py3-none-linux_\w+\.whl", wheel.name)
    names = zipfile.ZipFile(wheel).namelist()
    for needed in ("__main__.py", "py.typed", "runtime/lib/libqfa_ops.so"):
        assert f"qfa_passes/{needed}" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"qfa_passes"}
    assert not [name for name in names if name.endswith((".cc", ".h", ".pyc"))]
