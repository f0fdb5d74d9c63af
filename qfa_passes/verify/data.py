"""Text or arrays become feeds for a model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from qfa_passes.core.dataset import DataSet, Feed
from qfa_passes.core.printable import printable
from qfa_passes.errors import InvalidDataError, UsageError
from qfa_passes.verify.inputs import InputSpec, complete, fit, token_input
from qfa_passes.verify.text import TOKENIZER_KEY, blocks, read_tokens

DEFAULT_CONTEXT: Final = 512
DEFAULT_SAMPLES: Final = 16
"""Blocks of text unless told otherwise: 16 x 511 predictions."""


def text_data(
    path: Path,
    specs: Sequence[InputSpec],
    *,
    metadata: Mapping[str, str],
    tokenizer: str | None = None,
    samples: int | None = None,
    context: int = DEFAULT_CONTEXT,
    digest: str = "",
) -> DataSet:
    """Cuts a text into blocks of tokens for a language model.

    Args:
        path: A UTF-8 text file.
        specs: The model's inputs.
        metadata: The model's metadata; ``qfa.tokenizer`` there is the default tokenizer.
        tokenizer: ``bytes`` or the path of a tokenizer.json.
        samples: At most so many blocks; None: 16.
        context: Tokens per block, unless the model has a fixed length.
        digest: Of the file.

    Raises:
        InvalidDataError: The text does not fit the model.
        LimitExceededError: The file is too large.
        UsageError: An option does not fit.
    """
    where = f"'{printable(str(path))}'"
    spec = token_input(specs)
    if spec is None:
        raise InvalidDataError(
            f"{where} is text, but the model has no integer input 'input_ids'",
            why=f"its inputs are {', '.join(printable(s.name) for s in specs)}",
            hint="give a .npz file with one array per input, first axis = samples",
        )
    tokenizer = tokenizer or metadata.get(TOKENIZER_KEY)
    if tokenizer is None:
        raise UsageError(
            f"{where}: the model does not say which tokenizer its text needs",
            hint="give --tokenizer FILE (a tokenizer.json) or --tokenizer bytes",
        )
    context, samples = spec.size(1) or context, samples or DEFAULT_SAMPLES
    if context < 2 or samples < 1:
        raise UsageError(f"{samples} blocks of {context} tokens hold no prediction")
    tokens = blocks(read_tokens(path, tokenizer, samples * context), context, samples, where)
    unit = "block" if tokens.shape[0] == 1 else "blocks"
    return DataSet(
        _feeds({spec.name: tokens}, specs, where),
        f"{path.name} ({tokens.shape[0]} {unit} of {tokens.shape[1]} tokens)",
        digest,
    )


def array_data(
    arrays: Mapping[str, npt.NDArray[np.generic]],
    specs: Sequence[InputSpec],
    *,
    name: str,
    samples: int | None = None,
    digest: str = "",
) -> DataSet:
    """Cuts arrays (N, ...) into feeds.

    Args:
        arrays: By input name, all with the same N >= 1. Others are left out.
        specs: The model's inputs.
        name: Where they came from, for messages.
        samples: At most so many samples; None for all.
        digest: Of the file.

    Raises:
        InvalidDataError: The arrays do not fit the model.
    """
    known = [spec.name for spec in specs]
    rows = {key: array[:samples] for key, array in arrays.items() if key in known}
    if not rows:
        raise InvalidDataError(
            f"{name}: no array is named like an input of the model",
            why=f"arrays {', '.join(map(printable, arrays)) or 'none'}; "
            f"inputs {', '.join(map(printable, known))}",
            hint="name each array like the input that it feeds",
        )
    feeds = _feeds(rows, specs, name)
    return DataSet(feeds, f"{name} ({len(next(iter(rows.values())))} samples)", digest)


def _feeds(
    rows: Mapping[str, npt.NDArray[np.generic]], specs: Sequence[InputSpec], where: str
) -> tuple[Feed, ...]:
    by_name = {spec.name: spec for spec in specs}
    batch = next((size for spec in specs if (size := spec.size(0)) is not None), 1)
    count = len(next(iter(rows.values())))
    if count < batch:
        raise InvalidDataError(
            f"{where}: {count} samples, fewer than the model's fixed batch of {batch}"
        )
    feeds = []
    for start in range(0, count - batch + 1, batch):
        place = f"{where}, sample {start}"
        feed = {
            name: fit(array[start : start + batch], by_name[name], place)
            for name, array in rows.items()
        }
        feeds.append(complete(feed, specs, place))
    return tuple(feeds)
