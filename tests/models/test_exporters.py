"""Every builder with every exporter: the graph computes what the torch module computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from models.exporters import Exporter

torch = pytest.importorskip("torch", reason="the extra [models] is not installed")
pytest.importorskip("transformers", reason="the extra [models] is not installed")

from models import minilm, smollm2  # noqa: E402
from models.agreement import largest_difference  # noqa: E402

# A graph that hears the batch or the length of its example only is wrong at the others.
SHAPES = [(1, 1), (1, 37), (3, 20)]


def feeds(batch: int, length: int, *, token_types: bool) -> dict[str, np.ndarray]:
    """Random tokens of the tiny vocabulary; the last row of a batch is padded on the right."""
    ids = np.random.default_rng(length).integers(0, 128, (batch, length))
    mask = np.ones_like(ids)
    if batch > 1:
        mask[-1, length // 2 :] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if token_types:
        inputs["token_type_ids"] = np.zeros_like(ids)
    return inputs


@pytest.mark.parametrize(
    ("exporter", "attention"),
    [
        (Exporter.TORCHSCRIPT17, "sdpa"),
        (Exporter.TORCHSCRIPT17, "eager"),
        (Exporter.DYNAMO18, "sdpa"),
        (Exporter.DYNAMO23, "sdpa"),
    ],
)
@pytest.mark.parametrize("builder", [smollm2, minilm], ids=["smollm2", "minilm"])
def test_tiny_export_agrees_with_torch(builder, exporter, attention, tmp_path: Path) -> None:
    module = builder.load_module(attention=attention, tiny=True)
    path = builder.export(tmp_path, exporter, attention=attention, tiny=True, module=module)
    onnx.checker.check_model(path)
    model = onnx.load(path)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    assert versions[""] == exporter.opset
    # What the exporter writes attention as is why it is here.
    kind = "Attention" if exporter is Exporter.DYNAMO23 else "Softmax"
    assert [node.op_type for node in model.graph.node].count(kind) == 2
    # Nor may the file tell where it was made.
    for root in (Path(torch.__file__).parents[1], Path(smollm2.__file__).parents[1]):
        assert str(root).encode() not in path.read_bytes()
    for batch, length in SHAPES:
        inputs = feeds(batch, length, token_types=builder is minilm)
        assert largest_difference(path, module, inputs) < 2e-5, (batch, length)


def test_tiny_attention_is_far_from_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a wrong attention would pass every comparison made on the tiny models."""
    module = smollm2.load_module(tiny=True)
    original = torch.nn.functional.scaled_dot_product_attention
    spread = []

    def watch(q, k, v, **options):
        k_heads = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        scores = (q @ k_heads.transpose(-1, -2)) * options["scale"]
        spread.append(float(scores.std()))
        return original(q, k, v, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watch)
    module(*(torch.from_numpy(x) for x in feeds(1, 32, token_types=False).values()))
    assert len(spread) == 2
    assert min(spread) > 0.5
