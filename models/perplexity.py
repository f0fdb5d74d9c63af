"""Perplexity of a language model: the float figures that optimized models are held to.

    python -m models.perplexity MODEL.onnx [--tokens 8192] [--context 512] [--whole]

reads the held-out text of `models.corpus`, with the tokenizer.json beside the model where there is
one and as bytes otherwise. `--whole` reads all addresses instead, oldest first, which is
fair to a model that this project has not trained.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.corpus import addresses, byte_tokens, heldout_text, token_blocks

Logits = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]]


def perplexity(logits_of: Logits, blocks: npt.NDArray[np.int64]) -> float:
    """Perplexity per token over blocks (N, S), each read alone; its first token is given.

    Args:
        logits_of: the model, (1, S) -> (1, S, vocabulary).
        blocks: the tokens.
    """
    total = 0.0
    for block in blocks:
        logits = logits_of(block[None])[0, :-1].astype(np.float64)
        top = logits.max(axis=-1)
        normaliser = np.log(np.exp(logits - top[:, None]).sum(axis=-1)) + top
        total += float((normaliser - logits[np.arange(len(block) - 1), block[1:]]).sum())
    return math.exp(total / (blocks.shape[0] * (blocks.shape[1] - 1)))


def onnx_logits(path: Path, threads: int = 0) -> Logits:
    """Return the model in ONNX Runtime; a model with attention_mask is given ones."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}

    def logits_of(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        logits: npt.NDArray[np.float32] = session.run(None, {name: feeds[name] for name in names})[
            0
        ]
        return logits

    return logits_of


def tokenize(model: Path, text: str) -> npt.NDArray[np.int64]:
    """Return the text as tokens of the model, (N,)."""
    tokenizer_file = model.with_name("tokenizer.json")
    if not tokenizer_file.is_file():
        return byte_tokens(text)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    return np.array(tokenizer.encode(text).ids, dtype=np.int64)


def main() -> None:
    """Print the perplexity of one model."""
    parser = argparse.ArgumentParser(
        prog="python -m models.perplexity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--whole", action="store_true", help="all addresses, oldest first")
    options = parser.parse_args()
    # A token is at most a word or so: this much text is enough, and all of it takes a minute.
    text = (
        "\n".join(addresses().values())[: options.tokens * 32] if options.whole else heldout_text()
    )
    blocks = token_blocks(tokenize(options.model, text)[: options.tokens], options.context)
    figure = perplexity(onnx_logits(options.model), blocks)
    predicted = blocks.shape[0] * (blocks.shape[1] - 1)
    print(f"perplexity {figure:.4f} over {predicted} tokens")


if __name__ == "__main__":
    main()
