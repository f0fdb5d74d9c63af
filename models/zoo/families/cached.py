"""Decoders with keys and values of earlier tokens as inputs and outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.zoo.case import Case, Feeds, Variant, architecture, from_config, wrap
from models.zoo.families.decoders import GROUPED

if TYPE_CHECKING:
    import torch

# (B, S, past): prefill behind a past, then one token.
_EXTENTS = ((2, 4, 6), (3, 1, 9))
_LAYERS = 2


def cached_decoder(config: Any, variant: Variant, kv_heads: int, channels: int) -> Case:
    """A decoder of (input_ids, attention_mask, position_ids, past.*) to (logits, present.*)."""
    import transformers

    model = from_config(transformers.AutoModelForCausalLM, config, variant)

    def call(
        m: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, *past: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        cache = transformers.DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        result = m(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        layers = result.past_key_values.layers
        return (result.logits, *(t for layer in layers for t in (layer.keys, layer.values)))

    feeds = tuple(_feeds(*extents, kv_heads, channels) for extents in _EXTENTS)
    presents = tuple(name.replace("past", "present") for name in feeds[0] if "past" in name)
    tokens = {0: "batch", 1: "sequence"}
    axes = {
        "input_ids": tokens,
        "position_ids": tokens,
        "logits": tokens,
        "attention_mask": {0: "batch", 1: "total"},
        **{name: {0: "batch", 2: "past"} for name in feeds[0] if "past" in name},
        **{name: {0: "batch", 2: "total"} for name in presents},
    }
    return Case(wrap(model, call), feeds, ("logits", *presents), axes)


def _feeds(batch: int, length: int, past: int, kv_heads: int, channels: int) -> Feeds:
    import torch

    generator = torch.Generator().manual_seed(past)
    mask = torch.ones(batch, past + length, dtype=torch.int64)
    mask[-1, :2] = 0
    feeds: Feeds = {
        "input_ids": torch.randint(3, 96, (batch, length), generator=generator),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)[:, past:],
    }
    for layer in range(_LAYERS):
        for kind in ("key", "value"):
            shape = (batch, kv_heads, past, channels)
            feeds[f"past.{layer}.{kind}"] = torch.randn(shape, generator=generator)
    return feeds


@architecture("llama_past")
def llama_past(variant: Variant) -> Case:
    """Grouped heads behind a cache."""
    import transformers

    return cached_decoder(transformers.LlamaConfig(**GROUPED), variant, 2, 16)


@architecture("qwen3_past")
def qwen3_past(variant: Variant) -> Case:
    """Normalised queries and keys behind a cache."""
    import transformers

    return cached_decoder(transformers.Qwen3Config(**GROUPED, head_dim=16), variant, 2, 16)


@architecture("gpt2_past")
def gpt2_past(variant: Variant) -> Case:
    """Packed projection behind a cache."""
    import transformers

    config = transformers.GPT2Config(vocab_size=96, n_embd=64, n_layer=2, n_head=4, n_positions=64)
    return cached_decoder(config, variant, 4, 16)
