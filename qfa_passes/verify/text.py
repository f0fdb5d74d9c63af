"""Text to blocks of token numbers, with the model's own tokenizer."""

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from qfa_passes.core.printable import printable
from qfa_passes.errors import InvalidDataError, LimitExceededError, UsageError

TOKENIZER_KEY: Final = "qfa.tokenizer"
"""Model metadata that names the tokenizer; the only value is ``bytes``."""

_MAX_TEXT: Final = 256 << 20


def read_tokens(path: Path, tokenizer: str, limit: int | None = None) -> npt.NDArray[np.int64]:
    """Reads a text file as token numbers, (N).

    Args:
        path: UTF-8 text.
        tokenizer: ``bytes`` (one token per byte) or the path of a tokenizer.json.
        limit: Stop after so many tokens; None for all.

    Raises:
        InvalidDataError: The file cannot be read or is not UTF-8.
        LimitExceededError: The file is larger than 256 MiB.
        UsageError: No such tokenizer.
    """
    text = _read_text(path)
    if tokenizer == "bytes":
        data = np.frombuffer(text.encode(), dtype=np.uint8)
        return data[:limit].astype(np.int64)
    return _encode(text, Path(tokenizer).expanduser(), limit)


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_TEXT:
            raise LimitExceededError(
                f"{_shown(path)}: text of more than {_MAX_TEXT >> 20} MiB",
                hint="give a shorter excerpt",
            )
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InvalidDataError(
            f"{_shown(path)} cannot be read", why=error.strerror or ""
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidDataError(f"{_shown(path)} is not UTF-8 text", why=str(error)) from error


def _shown(path: Path) -> str:
    return f"'{printable(str(path))}'"


def _encode(text: str, path: Path, limit: int | None) -> npt.NDArray[np.int64]:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UsageError(
            f"{_shown(path)}: reading a tokenizer needs the package tokenizers",
            hint="pip install 'qfa_passes[text]'",
        ) from error
    if not path.is_file():
        raise UsageError(
            f"no tokenizer {_shown(path)}",
            hint="give --tokenizer bytes or the path of a tokenizer.json",
        )
    try:
        encoder = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises the bare base class
        raise InvalidDataError(f"{_shown(path)} is no tokenizer.json", why=str(error)) from error
    # A sentence encoder's tokenizer may cut or fill up every text to its own length.
    encoder.no_truncation()
    encoder.no_padding()
    if limit is not None:
        # A token has at least one character in all but odd cases; ten per token leave room, and
        # the tail of a long text would only cost time.
        text = text[: 10 * limit + 1000] if len(text) > 40 * limit else text
    numbers = encoder.encode(text, add_special_tokens=False).ids
    return np.asarray(numbers[:limit], dtype=np.int64)


def blocks(
    tokens: npt.NDArray[np.int64], context: int, samples: int | None, where: str
) -> npt.NDArray[np.int64]:
    """Cuts token numbers (N) into rows of ``context`` that do not overlap, (samples, context).

    A text shorter than one row becomes one short row; the rest of a longer one is left out.

    Raises:
        InvalidDataError: Fewer than two tokens, so nothing can be predicted.
    """
    if tokens.size < 2:
        raise InvalidDataError(
            f"{where}: {tokens.size} tokens, too few to predict one from another"
        )
    if tokens.size < context:
        return tokens.reshape(1, -1)
    rows = tokens.size // context
    if samples is not None:
        rows = min(rows, samples)
    return tokens[: rows * context].reshape(rows, context)
