"""The tiny language model: trained, carried, exported, and trained again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from models.corpus import byte_tokens, heldout_text, token_blocks
from models.exporters import Exporter
from models.perplexity import onnx_logits, perplexity

torch = pytest.importorskip("torch", reason="the extra [models] is not installed")
pytest.importorskip("safetensors", reason="the extra [models] is not installed")

from models.agreement import largest_difference  # noqa: E402
from models.tiny_lm.export import WEIGHTS, export, load_module  # noqa: E402
from models.tiny_lm.train import Recipe, train  # noqa: E402

CARRIED = WEIGHTS.with_suffix(".onnx")
SHAPES = [(1, 1), (1, 65), (3, 20)]


def feeds(batch: int, length: int) -> dict[str, np.ndarray]:
    """Random windows of the held-out text."""
    tokens = byte_tokens(heldout_text())
    starts = np.random.default_rng(length).integers(0, len(tokens) - length, batch)
    return {"input_ids": np.stack([tokens[start : start + length] for start in starts])}


def test_carried_model_computes_what_its_weights_say() -> None:
    module = load_module()
    for batch, length in SHAPES:
        assert largest_difference(CARRIED, module, feeds(batch, length)) < 1e-4


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
    ids = feeds(1, 40)["input_ids"]
    changed = ids.copy()
    changed[:, 25:] = (changed[:, 25:] + 1) % 256
    before, after = logits_of(ids), logits_of(changed)
    np.testing.assert_allclose(before[:, :25], after[:, :25], atol=1e-5)
    assert np.abs(before[:, 25:] - after[:, 25:]).max() > 0.1


@pytest.mark.parametrize("exporter", list(Exporter))
def test_every_exporter_agrees_with_torch(exporter: Exporter, tmp_path: Path) -> None:
    path = export(tmp_path / "m.onnx", exporter)
    module = load_module()
    for batch, length in SHAPES:
        assert largest_difference(path, module, feeds(batch, length)) < 1e-4


def test_training_learns_and_repeats_itself() -> None:
    text = "a byte follows a byte, and another follows that; " * 20
    recipe = Recipe(steps=30, batch=4, context=32, warmup=5)

    def run() -> tuple[list[float], dict[str, torch.Tensor]]:
        losses: list[float] = []
        model = train(recipe, text, lambda step, loss, model: losses.append(loss))
        return losses, model.state_dict()

    (losses, first), (again, second) = run(), run()
    assert losses == again
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert losses[0] == pytest.approx(np.log(256), abs=0.5)
    assert losses[-1] < 0.6 * losses[0]
