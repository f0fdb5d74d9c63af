"""Rebuild the byte-level BPE tokenizer that a GGUF file carries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_CONTROL = 3  # the token type of <|im_start|> and its like


def read_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer of a SmolLM model: BPE over bytes, each digit a token of its own."""
    import gguf
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    reader = gguf.GGUFReader(path)

    def contents(key: str) -> list[str]:
        field = reader.get_field(f"tokenizer.ggml.{key}")
        if field is None:
            raise ValueError(f"{path} has no field tokenizer.ggml.{key}")
        return list(field.contents())

    style = "".join(contents("pre"))
    if style != "smollm":
        raise ValueError(f"{path}: its tokenizer splits words in the style {style!r}, not smollm")
    tokens = contents("tokens")
    merges = [tuple(merge.split(" ", 1)) for merge in contents("merges")]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, contents("token_type"), strict=True)
            if int(kind) == _CONTROL
        ]
    )
    return tokenizer
