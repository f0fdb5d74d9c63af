"""From a data file, or from nothing, to inputs for a model: what `optimize` and `verify` share."""

import hashlib
from pathlib import Path
from typing import Final

from qfa_passes.core.dataset import DataSet
from qfa_passes.core.model import LoadedModel
from qfa_passes.core.printable import printable
from qfa_passes.errors import InvalidDataError, UsageError
from qfa_passes.load.data import read_samples
from qfa_passes.verify.data import DEFAULT_CONTEXT, array_data, text_data
from qfa_passes.verify.inputs import inputs_of_model
from qfa_passes.verify.seeded import seeded_data
from qfa_passes.verify.text import TOKENIZER_KEY

SEEDED_SAMPLES: Final = 2
"""One without and one with padding."""


def read_data(
    path: Path | None,
    model: LoadedModel,
    *,
    tokenizer: str | None = None,
    samples: int | None = None,
    context: int = DEFAULT_CONTEXT,
    seed: int = 0,
) -> DataSet:
    """Reads data for a model.

    Args:
        path: ``.npz`` with one array per input (first axis = samples), or a text file for a language
            model; None makes seeded random inputs and says so.
        model: The model.
        tokenizer: ``bytes`` or the path of a tokenizer.json; None: the model's metadata
            ``qfa.tokenizer``, else a tokenizer.json beside the model.
        samples: At most so many samples; None: 16 blocks of text, all of a ``.npz``, two made up.
        context: Tokens per block of text.
        seed: Of made-up inputs.

    Raises:
        InvalidDataError: The data does not fit the model.
        LimitExceededError: The file is too large.
        UsageError: The file cannot be opened, or an option does not fit.
    """
    if path is None:
        return seeded_data(model.proto, seed=seed, samples=samples or SEEDED_SAMPLES)
    path = path.expanduser()
    if samples is not None and samples < 1:
        raise UsageError(f"samples must be at least 1, not {samples}")
    specs = inputs_of_model(model.proto)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        arrays = read_samples(path).arrays
        return array_data(arrays, specs, name=path.name, samples=samples, digest=file_digest(path))
    if suffix not in ("", ".txt", ".md"):
        raise InvalidDataError(
            f"'{printable(str(path))}': unknown kind of data '{printable(path.suffix)}'",
            hint="give a .txt or .npz file",
        )
    if not path.is_file():
        raise UsageError(f"'{printable(str(path))}': no such data file")
    metadata = {entry.key: entry.value for entry in model.proto.metadata_props}
    if tokenizer is None and TOKENIZER_KEY not in metadata and model.path is not None:
        beside = model.path.with_name("tokenizer.json")
        tokenizer = str(beside) if beside.is_file() else None
    return text_data(
        path,
        specs,
        metadata=metadata,
        tokenizer=tokenizer,
        samples=samples,
        context=context,
        digest=file_digest(path),
    )


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
