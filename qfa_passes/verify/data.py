"""Verification and calibration data: a .txt or .npz file becomes feeds for a model."""

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from qfa_passes.errors import InvalidDataError, LimitExceededError, UsageError
from qfa_passes.verify.inputs import Feed, InputSpec, complete, fit, token_input
from qfa_passes.verify.text import TOKENIZER_KEY, blocks, read_tokens

DEFAULT_CONTEXT: Final = 512
DEFAULT_SAMPLES: Final = 16
"""Blocks of text unless told otherwise: 16 x 511 predictions."""

_MAX_ARRAYS: Final = 4 << 30


@dataclass(frozen=True, slots=True)
class DataSet:
    """Inputs for a model, ready to run.

    Attributes:
        feeds: One dictionary of arrays per run.
        label: Where they came from, in words.
        digest: SHA-256 of the file; tells whether two uses saw the same data. Empty if seeded.
    """

    feeds: tuple[Feed, ...]
    label: str
    digest: str = ""


def read_data(
    path: Path,
    specs: Sequence[InputSpec],
    *,
    metadata: Mapping[str, str] | None = None,
    tokenizer: str | None = None,
    samples: int | None = None,
    context: int = DEFAULT_CONTEXT,
) -> DataSet:
    """Reads a data file for a model.

    Args:
        path: ``.txt`` (language models) or ``.npz`` with one array per input, first axis = samples.
        specs: The model's inputs.
        metadata: The model's metadata; ``qfa.tokenizer`` there is the default tokenizer.
        tokenizer: ``bytes`` or the path of a tokenizer.json.
        samples: At most so many blocks or samples; None: 16 blocks of text, all of a ``.npz``.
        context: Tokens per block of text.

    Raises:
        InvalidDataError: The file does not fit the model.
        LimitExceededError: The file is too large.
        UsageError: An option does not fit.
    """
    path = path.expanduser()
    if samples is not None and samples < 1:
        raise UsageError(f"samples must be at least 1, not {samples}")
    if not path.is_file():
        raise InvalidDataError(f"{path}: no such data file")
    if path.suffix.lower() == ".npz":
        rows, batch = _read_arrays(path, specs, samples), _fixed_batch(specs)
        feeds = _feeds(rows, specs, batch, str(path))
        label = f"{path.name} ({sum(len(next(iter(f.values()))) for f in feeds)} samples)"
    elif path.suffix.lower() in (".txt", ".md", ""):
        spec = token_input(specs)
        if spec is None:
            raise InvalidDataError(
                f"{path}: text, but the model has no integer input 'input_ids'",
                why=f"its inputs are {', '.join(s.name for s in specs)}",
                hint="give a .npz file with one array per input, first axis = samples",
            )
        tokens = _read_blocks(path, spec, metadata or {}, tokenizer, samples, context)
        feeds = _feeds({spec.name: tokens}, specs, _fixed_batch(specs), str(path))
        label = f"{path.name} ({tokens.shape[0]} blocks of {tokens.shape[1]} tokens)"
    else:
        raise InvalidDataError(
            f"{path}: unknown kind of data {path.suffix!r}", hint="give a .txt or .npz file"
        )
    if not feeds:
        raise InvalidDataError(f"{path}: holds fewer samples than one batch of the model")
    return DataSet(feeds, label, file_digest(path))


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_blocks(
    path: Path,
    spec: InputSpec,
    metadata: Mapping[str, str],
    tokenizer: str | None,
    samples: int | None,
    context: int,
) -> npt.NDArray[np.int64]:
    tokenizer = tokenizer or metadata.get(TOKENIZER_KEY)
    if tokenizer is None:
        raise UsageError(
            f"{path}: the model does not say which tokenizer its text needs",
            hint="give --tokenizer FILE (a tokenizer.json) or --tokenizer bytes",
        )
    context = spec.size(1) or context
    if context < 2:
        raise UsageError(f"context must be at least 2 tokens, not {context}")
    samples = samples or DEFAULT_SAMPLES
    return blocks(read_tokens(path, tokenizer, samples * context), context, samples, str(path))


def _fixed_batch(specs: Sequence[InputSpec]) -> int:
    return next((size for spec in specs if (size := spec.size(0)) is not None), 1)


def _read_arrays(
    path: Path, specs: Sequence[InputSpec], samples: int | None
) -> dict[str, npt.NDArray[np.generic]]:
    known = {spec.name for spec in specs}
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _MAX_ARRAYS:
            raise LimitExceededError(
                f"{path}: {size / 2**30:.1f} GiB of arrays, more than {_MAX_ARRAYS >> 30} GiB",
                hint="split the data over several files",
            )
        with np.load(path, allow_pickle=False) as archive:
            found = list(archive.files)
            arrays = {name: archive[name][:samples] for name in found if name in known}
    except (OSError, ValueError, IndexError, MemoryError, zipfile.BadZipFile) as error:
        raise InvalidDataError(
            f"{path}: is no .npz file of plain arrays", why=str(error)
        ) from error
    if not arrays:
        raise InvalidDataError(
            f"{path}: no array is named like an input of the model",
            why=f"arrays {', '.join(found) or 'none'}; inputs {', '.join(sorted(known))}",
        )
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1 or not min(lengths.values()):
        raise InvalidDataError(
            f"{path}: the arrays need the same number of samples, at least one", why=str(lengths)
        )
    return arrays


def _feeds(
    rows: Mapping[str, npt.NDArray[np.generic]],
    specs: Sequence[InputSpec],
    batch: int,
    where: str,
) -> tuple[Feed, ...]:
    by_name = {spec.name: spec for spec in specs}
    count = len(next(iter(rows.values())))
    feeds = []
    for start in range(0, count - batch + 1, batch):
        place = f"{where}, sample {start}"
        feed = {
            name: fit(array[start : start + batch], by_name[name], place)
            for name, array in rows.items()
        }
        feeds.append(complete(feed, specs, place))
    return tuple(feeds)
