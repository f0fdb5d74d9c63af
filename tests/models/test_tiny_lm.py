"""The tiny language model in torch: its exports, and its training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.corpus import byte_tokens, heldout_text
from models.exporters import Exporter

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
