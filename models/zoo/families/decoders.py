"""Causal language models without a cache."""

from __future__ import annotations

from typing import Any

from models.zoo.case import (
    BATCH_LENGTH,
    EAGER,
    Case,
    Variant,
    architecture,
    from_config,
    token_feeds,
    wrap,
)

SMALL = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
# A window shorter than the samples, or it would not show.
_WINDOW = 5


def decoder(config: Any, variant: Variant, *, positions: bool = True) -> Case:
    """A decoder of (input_ids, attention_mask) to logits.

    Args:
        config: Of transformers.
        variant: How it is wanted.
        positions: Whether the model takes position_ids.
    """
    import torch
    import transformers

    model = from_config(transformers.AutoModelForCausalLM, config, variant)

    def call(m: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        more = {}
        if positions and variant.rotary_op:
            more["position_ids"] = torch.arange(ids.shape[1]).expand_as(ids)
        logits: torch.Tensor = m(input_ids=ids, attention_mask=mask, use_cache=False, **more).logits
        return logits

    names = ("input_ids", "attention_mask", "logits")
    return Case(wrap(model, call), token_feeds(), names[2:], dict.fromkeys(names, BATCH_LENGTH))


@architecture("gpt2")
def gpt2(variant: Variant) -> Case:
    """Packed projection by Gemm and Split."""
    import transformers

    config = transformers.GPT2Config(vocab_size=96, n_embd=64, n_layer=2, n_head=4, n_positions=64)
    return decoder(config, variant)


@architecture("gpt_neox")
def gpt_neox(variant: Variant) -> Case:
    """Packed by head; rotary positions on a quarter of the channels."""
    import transformers

    return decoder(transformers.GPTNeoXConfig(**SMALL), variant)


@architecture("gptj", EAGER)
def gptj(variant: Variant) -> Case:
    """Interleaved rotary positions on half the channels; the causal mask is a buffer."""
    import transformers

    config = transformers.GPTJConfig(
        vocab_size=96, n_embd=64, n_layer=2, n_head=4, n_positions=64, rotary_dim=8, n_inner=96
    )
    return decoder(config, variant)


@architecture("opt")
def opt(variant: Variant) -> Case:
    """The scale is on the query projection."""
    import transformers

    config = transformers.OPTConfig(
        vocab_size=96,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=96,
        max_position_embeddings=64,
        word_embed_proj_dim=64,
    )
    return decoder(config, variant)


@architecture("bloom", EAGER)
def bloom(variant: Variant) -> Case:
    """ALiBi, products with batch and heads merged (baddbmm)."""
    import transformers

    config = transformers.BloomConfig(vocab_size=96, hidden_size=64, n_layer=2, n_head=4)
    return decoder(config, variant, positions=False)


@architecture("mpt", EAGER)
def mpt(variant: Variant) -> Case:
    """ALiBi cut out of a longer one, packed projection."""
    import transformers

    config = transformers.MptConfig(
        vocab_size=96, d_model=64, n_layers=2, n_heads=4, max_seq_len=64, expansion_ratio=2
    )
    return decoder(config, variant, positions=False)


@architecture("falcon")
def falcon(variant: Variant) -> Case:
    """One key/value head; rotary positions."""
    import transformers

    config = transformers.FalconConfig(
        vocab_size=96,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        multi_query=True,
        new_decoder_architecture=False,
        alibi=False,
        parallel_attn=True,
        bias=False,
    )
    return decoder(config, variant)


@architecture("falcon_alibi")
def falcon_alibi(variant: Variant) -> Case:
    """ALiBi joined with the causal mask."""
    import transformers

    config = transformers.FalconConfig(
        vocab_size=96,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        multi_query=False,
        new_decoder_architecture=False,
        alibi=True,
        parallel_attn=False,
        bias=True,
    )
    return decoder(config, variant, positions=False)


@architecture("llama")
def llama(variant: Variant) -> Case:
    """Grouped heads, rotary positions."""
    import transformers

    return decoder(transformers.LlamaConfig(**GROUPED), variant)


@architecture("mistral")
def mistral(variant: Variant) -> Case:
    """A sliding window."""
    import transformers

    return decoder(transformers.MistralConfig(**GROUPED, sliding_window=_WINDOW), variant)


@architecture("qwen2")
def qwen2(variant: Variant) -> Case:
    """Biases on the projections."""
    import transformers

    return decoder(transformers.Qwen2Config(**GROUPED), variant)


@architecture("qwen3")
def qwen3(variant: Variant) -> Case:
    """Normalised queries and keys."""
    import transformers

    return decoder(transformers.Qwen3Config(**GROUPED, head_dim=16), variant)


@architecture("gemma2", EAGER)
def gemma2(variant: Variant) -> Case:
    """Softcap, a window in every other layer."""
    import transformers

    config = transformers.Gemma2Config(
        **GROUPED, head_dim=16, sliding_window=_WINDOW, query_pre_attn_scalar=16
    )
    # The default of 50 is far above the scores of a small model.
    config.attn_logit_softcapping = 2.0
    return decoder(config, variant)


@architecture("gemma3")
def gemma3(variant: Variant) -> Case:
    """Normalised queries and keys, windows in all layers but the last."""
    import transformers

    config = transformers.Gemma3TextConfig(
        **{**GROUPED, "num_hidden_layers": 3},
        head_dim=16,
        sliding_window=_WINDOW,
        query_pre_attn_scalar=16,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    )
    return decoder(config, variant)


@architecture("phi")
def phi(variant: Variant) -> Case:
    """Rotary positions on half the channels."""
    import transformers

    return decoder(transformers.PhiConfig(**SMALL), variant)


@architecture("phi3")
def phi3(variant: Variant) -> Case:
    """Packed projection by MatMul and Slice."""
    import transformers

    return decoder(
        transformers.Phi3Config(**GROUPED, pad_token_id=0, bos_token_id=1, eos_token_id=2), variant
    )


@architecture("cohere")
def cohere(variant: Variant) -> Case:
    """Interleaved rotary positions, normalised queries and keys."""
    import transformers

    config = transformers.CohereConfig(
        **GROUPED, use_qk_norm=True, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    return decoder(config, variant)


@architecture("olmo2")
def olmo2(variant: Variant) -> Case:
    """Queries and keys normalised before the heads are split."""
    import transformers

    config = transformers.Olmo2Config(**GROUPED, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    return decoder(config, variant)


def _latent(**more: Any) -> dict[str, Any]:
    return {
        **SMALL,
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "first_k_dense_replace": 2,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 32,
        **more,
    }


@architecture("deepseek_v3")
def deepseek_v3(variant: Variant) -> Case:
    """Latent attention (MLA); keys have more channels than values."""
    import transformers

    return decoder(transformers.DeepseekV3Config(**_latent()), variant)


@architecture("deepseek_v2")
def deepseek_v2(variant: Variant) -> Case:
    """Latent attention with complex rotary positions."""
    import transformers

    return decoder(transformers.DeepseekV2Config(**_latent()), variant)


@architecture("gpt_oss", EAGER)
def gpt_oss(variant: Variant) -> Case:
    """Sinks, a window in every other layer, experts."""
    import transformers

    config = transformers.GptOssConfig(
        **GROUPED,
        head_dim=16,
        sliding_window=_WINDOW,
        num_local_experts=2,
        num_experts_per_tok=1,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    # The others sort tokens by expert, which no exporter knows.
    config._experts_implementation = "eager"
    return decoder(config, variant)


@architecture("gpt_neo", EAGER)
def gpt_neo(variant: Variant) -> Case:
    """No scale; the mask is a buffer, local in every other layer."""
    import transformers

    config = transformers.GPTNeoConfig(
        vocab_size=96,
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        intermediate_size=96,
        max_position_embeddings=64,
        attention_types=[[["global", "local"], 1]],
        window_size=_WINDOW,
    )
    return decoder(config, variant)


@architecture("xglm", EAGER)
def xglm(variant: Variant) -> Case:
    """Masked scores are held above the lowest float by a Max."""
    import transformers

    config = transformers.XGLMConfig(
        vocab_size=96,
        d_model=64,
        num_layers=2,
        attention_heads=4,
        ffn_dim=96,
        max_position_embeddings=64,
    )
    return decoder(config, variant)


@architecture("olmo3")
def olmo3(variant: Variant) -> Case:
    """Norms as in OLMo 2, windows in most layers."""
    import transformers

    config = transformers.Olmo3Config(
        **GROUPED, sliding_window=_WINDOW, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    return decoder(config, variant)
