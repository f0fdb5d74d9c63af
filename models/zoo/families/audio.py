"""Speech models."""

from __future__ import annotations

from typing import Any

from models.zoo.case import (
    BATCH,
    BATCH_LENGTH,
    EAGER,
    Case,
    Feeds,
    Variant,
    architecture,
    float_feeds,
    from_config,
    seeded,
    token_feeds,
    wrap,
)

WHISPER = {
    "vocab_size": 96,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "num_mel_bins": 16,
    "max_source_positions": 24,
    "max_target_positions": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


def _whisper(variant: Variant) -> Any:
    import transformers

    config = transformers.WhisperConfig(**WHISPER, use_cache=False)
    return seeded(
        transformers.WhisperForConditionalGeneration._from_config(
            config, attn_implementation=variant.attention
        )
    )


@architecture("whisper_encoder")
def whisper_encoder(variant: Variant) -> Case:
    """Convolutions, then attention over a fixed number of frames."""
    module = wrap(
        _whisper(variant), lambda m, features: m.model.encoder(features).last_hidden_state
    )
    feeds = float_feeds("input_features", (2, 16, 48), (3, 16, 48))
    names = ("input_features", "last_hidden_state")
    return Case(module, feeds, names[1:], dict.fromkeys(names, BATCH))


@architecture("whisper_decoder")
def whisper_decoder(variant: Variant) -> Case:
    """Causal self-attention and cross-attention on the frames."""
    import torch

    def call(m: Any, ids: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        # Without a mask transformers looks for packed sequences, by operators that TorchScript cannot export.
        mask = torch.ones_like(ids)
        hidden = m.model.decoder(
            input_ids=ids, attention_mask=mask, encoder_hidden_states=frames, use_cache=False
        )
        logits: torch.Tensor = m.proj_out(hidden.last_hidden_state)
        return logits

    def feeds(batch: int, length: int) -> Feeds:
        generator = torch.Generator().manual_seed(length)
        return {
            "decoder_input_ids": torch.randint(3, 96, (batch, length), generator=generator),
            "encoder_hidden_states": torch.randn((batch, 24, 64), generator=generator),
        }

    axes = {
        "decoder_input_ids": BATCH_LENGTH,
        "encoder_hidden_states": BATCH,
        "logits": BATCH_LENGTH,
    }
    return Case(wrap(_whisper(variant), call), (feeds(2, 7), feeds(3, 5)), ("logits",), axes)


SPEECH = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "conv_dim": (16, 16),
    "conv_stride": (4, 2),
    "conv_kernel": (6, 3),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


def recogniser(config: Any, variant: Variant) -> Case:
    """A model of samples (B, N) to hidden states."""
    import transformers

    model = from_config(transformers.AutoModel, config, variant)
    module = wrap(model, lambda m, samples: m(samples).last_hidden_state)
    names = ("input_values", "last_hidden_state")
    axes = {
        "input_values": {0: "batch", 1: "samples"},
        "last_hidden_state": {0: "batch", 1: "frames"},
    }
    return Case(module, float_feeds(names[0], (2, 160), (3, 130)), names[1:], axes)


@architecture("wav2vec2")
def wav2vec2(variant: Variant) -> Case:
    """No mask."""
    import transformers

    return recogniser(transformers.Wav2Vec2Config(**SPEECH), variant)


@architecture("hubert")
def hubert(variant: Variant) -> Case:
    """As wav2vec2."""
    import transformers

    return recogniser(transformers.HubertConfig(**SPEECH), variant)


@architecture("wav2vec2_conformer", EAGER)
def wav2vec2_conformer(variant: Variant) -> Case:
    """Relative positions of Transformer-XL: a second product is added to the scores."""
    import transformers

    config = transformers.Wav2Vec2ConformerConfig(
        **SPEECH, position_embeddings_type="relative", conv_depthwise_kernel_size=3
    )
    return recogniser(config, variant)


@architecture("vits", EAGER)
def vits(variant: Variant) -> Case:
    """The text encoder of VITS: relative keys are added to the scores and relative values to the result."""
    import transformers

    config = transformers.VitsConfig(
        vocab_size=96,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        window_size=3,
        ffn_dim=96,
        flow_size=16,
    )
    model = from_config(transformers.AutoModel, config, variant)

    def call(m: Any, ids: Any, mask: Any) -> Any:
        keep = mask.unsqueeze(-1).float()
        return m.text_encoder(
            input_ids=ids, padding_mask=keep, attention_mask=mask
        ).last_hidden_state

    names = ("input_ids", "attention_mask", "last_hidden_state")
    return Case(wrap(model, call), token_feeds(), names[2:], dict.fromkeys(names, BATCH_LENGTH))


def features_case(model: Any, channels: int, lengths: tuple[int, int]) -> Case:
    """An encoder of input_features (B, frames, channels)."""
    module = wrap(model, lambda m, features: m(features).last_hidden_state)
    names = ("input_features", "last_hidden_state")
    feeds = float_feeds(names[0], (2, lengths[0], channels), (3, lengths[1], channels))
    axes = {names[0]: {0: "batch", 1: "frames"}, names[1]: {0: "batch", 1: "steps"}}
    return Case(module, feeds, names[1:], axes)


@architecture("wav2vec2_bert", EAGER)
def wav2vec2_bert(variant: Variant) -> Case:
    """Clipped distances pick keys of their own: a second product with the query."""
    import transformers

    config = transformers.Wav2Vec2BertConfig(
        vocab_size=96,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        feature_projection_input_dim=20,
        conv_depthwise_kernel_size=3,
        left_max_position_embeddings=4,
        right_max_position_embeddings=3,
    )
    return features_case(from_config(transformers.AutoModel, config, variant), 20, (12, 9))


@architecture("parakeet")
def parakeet(variant: Variant) -> Case:
    """Fast Conformer: relative positions, shifted, join the mask."""
    import transformers

    config = transformers.ParakeetEncoderConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        num_mel_bins=16,
        subsampling_conv_channels=16,
        conv_kernel_size=3,
    )
    model = from_config(transformers.AutoModel, config, variant)
    return features_case(model, 16, (96, 64))


def _transcriber(model: Any, name: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> Case:
    """A model of sound and earlier tokens to logits."""
    import torch

    def call(m: Any, sound: torch.Tensor, ids: torch.Tensor) -> Any:
        mask = torch.ones_like(ids)
        inputs = {name: sound, "decoder_input_ids": ids, "decoder_attention_mask": mask}
        return m(**inputs, use_cache=False).logits

    def feeds(shape: tuple[int, ...], length: int) -> Feeds:
        generator = torch.Generator().manual_seed(length)
        return {
            name: torch.randn(shape, generator=generator),
            "decoder_input_ids": torch.randint(3, 96, (shape[0], length), generator=generator),
        }

    axes = {
        name: {0: "batch", 1: "frames"},
        "decoder_input_ids": BATCH_LENGTH,
        "logits": BATCH_LENGTH,
    }
    both = (feeds(shapes[0], 5), feeds(shapes[1], 4))
    return Case(wrap(model, call), both, ("logits",), axes)


@architecture("speech_to_text", EAGER)
def speech_to_text(variant: Variant) -> Case:
    """Convolutions over frames, then BART's attention."""
    import transformers

    shared = {key: value for key, value in WHISPER.items() if not key.startswith(("num", "max"))}
    config = transformers.Speech2TextConfig(
        **shared,
        input_feat_per_channel=16,
        input_channels=1,
        conv_channels=32,
        num_conv_layers=2,
        max_source_positions=64,
        max_target_positions=64,
        use_cache=False,
    )
    model = seeded(
        transformers.Speech2TextForConditionalGeneration._from_config(
            config, attn_implementation=variant.attention
        )
    )
    return _transcriber(model, "input_features", ((2, 40, 16), (3, 32, 16)))


@architecture("moonshine")
def moonshine(variant: Variant) -> Case:
    """Rotary positions on a part of the channels, in encoder and decoder."""
    import transformers

    config = transformers.MoonshineConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=96,
        encoder_num_hidden_layers=2,
        decoder_num_hidden_layers=2,
        encoder_num_attention_heads=4,
        decoder_num_attention_heads=4,
        max_position_embeddings=64,
        use_cache=False,
    )
    model = seeded(
        transformers.MoonshineForConditionalGeneration._from_config(
            config, attn_implementation=variant.attention
        )
    )
    return _transcriber(model, "input_values", ((2, 4000), (3, 3600)))
