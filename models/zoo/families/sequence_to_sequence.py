"""Encoders and decoders joined by cross-attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.zoo.case import BATCH_LENGTH, EAGER, Case, Feeds, Variant, architecture, seeded, wrap

if TYPE_CHECKING:
    import torch

_SOURCE = {0: "batch", 1: "source"}
BART = {
    "vocab_size": 96,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "max_position_embeddings": 64,
}
SPECIAL = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}

T5 = {
    "vocab_size": 96,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 96,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "decoder_start_token_id": 0,
}


def translator(config: Any, variant: Variant) -> Case:
    """(input_ids, attention_mask, decoder_input_ids) to logits; encoder and decoder in one graph."""
    import torch
    import transformers

    config.use_cache = False
    model = seeded(
        transformers.AutoModelForSeq2SeqLM.from_config(
            config, attn_implementation=variant.attention
        )
    )
    module = wrap(
        model,
        lambda m, ids, mask, decoder_ids: (
            m(
                input_ids=ids, attention_mask=mask, decoder_input_ids=decoder_ids, use_cache=False
            ).logits
        ),
    )

    def feeds(batch: int, source: int, target: int) -> Feeds:
        generator = torch.Generator().manual_seed(source)
        ids = torch.randint(3, 96, (batch, source), generator=generator)
        mask = torch.ones_like(ids)
        mask[-1, -2:] = 0
        decoder_ids = torch.randint(3, 96, (batch, target), generator=generator)
        return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": decoder_ids}

    axes = {
        "input_ids": _SOURCE,
        "attention_mask": _SOURCE,
        "decoder_input_ids": BATCH_LENGTH,
        "logits": BATCH_LENGTH,
    }
    return Case(module, (feeds(2, 12, 7), feeds(3, 9, 5)), ("logits",), axes)


@architecture("t5")
def t5(variant: Variant) -> Case:
    """Relative positions as a bias, no scale."""
    import transformers

    return translator(transformers.T5Config(**T5), variant)


@architecture("bart")
def bart(variant: Variant) -> Case:
    """Scale on the query, three kinds of attention."""
    import transformers

    return translator(transformers.BartConfig(**BART, **SPECIAL), variant)


@architecture("marian")
def marian(variant: Variant) -> Case:
    """Sinusoidal positions; the models of OPUS-MT."""
    import transformers

    return translator(transformers.MarianConfig(**BART, **SPECIAL), variant)


@architecture("m2m_100")
def m2m_100(variant: Variant) -> Case:
    """Norms before attention; the models of M2M-100 and NLLB."""
    import transformers

    return translator(transformers.M2M100Config(**BART, **SPECIAL), variant)


@architecture("bart_decoder_past")
def bart_decoder_past(variant: Variant) -> Case:
    """One decoder step: self-attention behind a cache, cross-attention on keys and values that are inputs."""
    import torch
    import transformers

    config = transformers.BartConfig(**BART, **SPECIAL)
    model = seeded(
        transformers.BartForConditionalGeneration._from_config(
            config, attn_implementation=variant.attention
        )
    )

    def call(
        m: Any, ids: torch.Tensor, mask: torch.Tensor, *past: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        own, cross = (
            transformers.DynamicCache(list(zip(past[i::4], past[i + 1 :: 4], strict=True)))
            for i in (0, 2)
        )
        result = m.model.decoder(
            input_ids=ids,
            encoder_hidden_states=torch.zeros(mask.shape[0], mask.shape[1], 64),
            encoder_attention_mask=mask,
            past_key_values=transformers.EncoderDecoderCache(own, cross),
            use_cache=True,
        )
        layers = result.past_key_values.self_attention_cache.layers
        presents = (t for layer in layers for t in (layer.keys, layer.values))
        return (m.lm_head(result.last_hidden_state), *presents)

    def feeds(batch: int, source: int, past: int) -> Feeds:
        generator = torch.Generator().manual_seed(past)
        mask = torch.ones(batch, source, dtype=torch.int64)
        mask[-1, -2:] = 0
        values: Feeds = {
            "input_ids": torch.randint(3, 96, (batch, 1), generator=generator),
            "encoder_attention_mask": mask,
        }
        for layer in range(2):
            for part, length in (("decoder", past), ("encoder", source)):
                for kind in ("key", "value"):
                    shape = (batch, 4, length, 16)
                    values[f"past.{layer}.{part}.{kind}"] = torch.randn(shape, generator=generator)
        return values

    both = (feeds(2, 8, 5), feeds(3, 9, 7))
    presents = tuple(
        name.replace("past", "present")
        for name in both[0]
        if name.startswith("past") and ".decoder." in name
    )
    axes = {
        "input_ids": {0: "batch"},
        "encoder_attention_mask": _SOURCE,
        "logits": {0: "batch"},
        **{
            name: {0: "batch", 2: "past" if ".decoder." in name else "source"}
            for name in both[0]
            if name.startswith("past")
        },
        **{name: {0: "batch", 2: "total"} for name in presents},
    }
    return Case(wrap(model, call), both, ("logits", *presents), axes)


@architecture("longt5", EAGER)
def longt5(variant: Variant) -> Case:
    """The encoder attends inside blocks of tokens and their neighbours."""
    import transformers

    return translator(transformers.LongT5Config(**T5, local_radius=3), variant)
