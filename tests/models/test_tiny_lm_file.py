"""The tiny language model that lies in the repository, as a user without torch has it."""

from __future__ import annotations

import numpy as np
import onnx

from models.corpus import HELDOUT_FILE, byte_tokens, heldout_text, token_blocks
from models.perplexity import onnx_logits, perplexity

CARRIED = HELDOUT_FILE.with_name("tiny_lm.onnx")


def test_carried_model_names_its_tokenizer_and_axes() -> None:
    onnx.checker.check_model(CARRIED)
    model = onnx.load(CARRIED)
    assert {entry.key: entry.value for entry in model.metadata_props}["qfa.tokenizer"] == "bytes"
    axes = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert axes == ["batch", "sequence"]


def test_carried_model_has_learned() -> None:
    """Letter frequencies alone give a perplexity near 20 on text that it never saw."""
    blocks = token_blocks(byte_tokens(heldout_text()), 512)
    sample = blocks[:: len(blocks) // 8]
    assert perplexity(onnx_logits(CARRIED, threads=1), sample) < 5.0


def test_position_sees_itself_and_the_past_only() -> None:
    logits_of = onnx_logits(CARRIED, threads=1)
    ids = byte_tokens(heldout_text())[None, 1000:1040]
    changed = ids.copy()
    changed[:, 25:] = (changed[:, 25:] + 1) % 256
    before, after = logits_of(ids), logits_of(changed)
    np.testing.assert_allclose(before[:, :25], after[:, :25], atol=1e-5)
    assert np.abs(before[:, 25:] - after[:, 25:]).max() > 0.1
