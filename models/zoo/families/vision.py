"""Vision models, and models of text and vision."""

from __future__ import annotations

from typing import Any

from models.zoo.case import (
    BATCH,
    BATCH_LENGTH,
    EAGER,
    Case,
    Variant,
    architecture,
    float_feeds,
    from_config,
    seeded,
    token_feeds,
    wrap,
)

VISION = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4]}


def pixels_case(module: Any, side: int = 32, output: str = "last_hidden_state") -> Case:
    """A module of pixel_values (B, 3, side, side)."""
    shape = (3, side, side)
    names = ("pixel_values", output)
    feeds = float_feeds(names[0], (2, *shape), (3, *shape))
    return Case(module, feeds, names[1:], dict.fromkeys(names, BATCH))


def backbone(config: Any, variant: Variant, side: int = 32) -> Case:
    """A model of pixels to hidden states."""
    import transformers

    model = from_config(transformers.AutoModel, config, variant)
    return pixels_case(wrap(model, lambda m, pixels: m(pixels).last_hidden_state), side)


@architecture("vit")
def vit(variant: Variant) -> Case:
    """A class token and patches, no mask."""
    import transformers

    return backbone(transformers.ViTConfig(**VISION, image_size=32, patch_size=8), variant)


@architecture("dinov2")
def dinov2(variant: Variant) -> Case:
    """As ViT, with scaled branches."""
    import transformers

    config = transformers.Dinov2Config(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        mlp_ratio=2,
        image_size=32,
        patch_size=8,
    )
    return backbone(config, variant)


@architecture("beit")
def beit(variant: Variant) -> Case:
    """Relative positions from a table."""
    import transformers

    config = transformers.BeitConfig(
        **VISION, image_size=32, patch_size=8, use_relative_position_bias=True
    )
    return backbone(config, variant)


@architecture("swin")
def swin(variant: Variant) -> Case:
    """Shifted windows, relative positions and masks."""
    import transformers

    return backbone(transformers.SwinConfig(**SWIN, window_size=4), variant)


@architecture("swinv2", EAGER)
def swinv2(variant: Variant) -> Case:
    """Cosine attention with a learned scale per head."""
    import transformers

    return backbone(transformers.Swinv2Config(**SWIN, window_size=4), variant)


@architecture("segformer", EAGER)
def segformer(variant: Variant) -> Case:
    """Keys and values from a smaller picture."""
    import transformers

    config = transformers.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[4, 2],
        hidden_sizes=[32, 64],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[2, 4],
        mlp_ratios=[2, 2],
    )
    return backbone(config, variant)


@architecture("sam_vision")
def sam_vision(variant: Variant) -> Case:
    """Windows, and relative positions that are products with the query."""
    import transformers

    config = transformers.SamVisionConfig(
        **{**VISION, "num_hidden_layers": 3},
        image_size=64,
        patch_size=8,
        window_size=3,
        global_attn_indexes=[1],
        mlp_dim=96,
        output_channels=16,
    )
    model = seeded(
        transformers.SamVisionModel._from_config(config, attn_implementation=variant.attention)
    )
    return pixels_case(wrap(model, lambda m, pixels: m(pixels).last_hidden_state), 64)


@architecture("sam_mask_decoder")
def sam_mask_decoder(variant: Variant) -> Case:
    """Two-way attention between a few tokens and all patches, with fewer channels than the model."""
    import torch
    import transformers

    config = transformers.SamMaskDecoderConfig(
        hidden_size=64, num_attention_heads=4, mlp_dim=96, iou_head_hidden_dim=32
    )
    from transformers.models.sam.modeling_sam import SamMaskDecoder

    config._attn_implementation = variant.attention
    model = seeded(SamMaskDecoder(config))

    def call(m: Any, image: Any, places: Any, sparse: Any, dense: Any) -> Any:
        masks, quality = m(
            image_embeddings=image,
            image_positional_embeddings=places,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )[:2]
        return masks, quality

    def feeds(batch: int, points: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(points)
        shapes = {
            "image_embeddings": (batch, 64, 8, 8),
            "image_positions": (batch, 64, 8, 8),
            "points": (batch, 1, points, 64),
            "dense": (batch, 64, 8, 8),
        }
        return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}

    axes = {
        **dict.fromkeys(
            ("image_embeddings", "image_positions", "dense", "masks", "quality"), BATCH
        ),
        "points": {0: "batch", 2: "points"},
    }
    return Case(wrap(model, call), (feeds(2, 3), feeds(3, 5)), ("masks", "quality"), axes)


@architecture("detr")
def detr(variant: Variant) -> Case:
    """Positions are added to queries and keys but not to values; learned queries look at the picture."""
    import transformers

    config = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=transformers.ResNetConfig(
            embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], out_features=["stage2"]
        ),
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        num_queries=6,
        num_labels=5,
    )
    # The convolutions of the backbone refuse to be told how to attend.
    implementation = {"": variant.attention, "backbone_config": EAGER}
    model = seeded(
        transformers.DetrForObjectDetection._from_config(config, attn_implementation=implementation)
    )

    def call(m: Any, pixels: Any) -> Any:
        result = m(pixels)
        return result.logits, result.pred_boxes

    case = pixels_case(wrap(model, call), 64)
    axes = dict.fromkeys(("pixel_values", "logits", "boxes"), BATCH)
    return Case(case.module, case.feeds, ("logits", "boxes"), axes)


_CLIP_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _clip(variant: Variant) -> Any:
    import transformers

    tower = {**VISION, "projection_dim": 32}
    config = transformers.CLIPConfig(
        text_config={**tower, "vocab_size": 96, "max_position_embeddings": 32, **_CLIP_TOKENS},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=32,
    )
    return seeded(
        transformers.CLIPModel._from_config(config, attn_implementation=variant.attention)
    )


@architecture("clip_text")
def clip_text(variant: Variant) -> Case:
    """Causal and padding mask."""
    module = wrap(
        _clip(variant).text_model,
        lambda m, ids, mask: m(input_ids=ids, attention_mask=mask).last_hidden_state,
    )
    names = ("input_ids", "attention_mask", "last_hidden_state")
    return Case(module, token_feeds(), names[2:], dict.fromkeys(names, BATCH_LENGTH))


@architecture("clip_vision")
def clip_vision(variant: Variant) -> Case:
    """As ViT."""
    model = _clip(variant).vision_model
    return pixels_case(wrap(model, lambda m, pixels: m(pixels).last_hidden_state))


@architecture("siglip_vision")
def siglip_vision(variant: Variant) -> Case:
    """A learned query (torch.nn.MultiheadAttention) pools the patches."""
    import transformers

    config = transformers.SiglipVisionConfig(**VISION, image_size=32, patch_size=8)
    model = seeded(
        transformers.SiglipVisionModel._from_config(config, attn_implementation=variant.attention)
    )
    return pixels_case(wrap(model, lambda m, pixels: m(pixels).pooler_output), 32, "pooled")


@architecture("trocr_decoder", EAGER)
def trocr_decoder(variant: Variant) -> Case:
    """The reader of text lines: causal self-attention, cross-attention on patches."""
    import torch
    import transformers

    config = transformers.TrOCRConfig(
        vocab_size=96,
        d_model=64,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=96,
        max_position_embeddings=64,
        cross_attention_hidden_size=64,
        is_decoder=True,
        add_cross_attention=True,
    )
    model = from_config(transformers.AutoModelForCausalLM, config, variant)

    def feeds(batch: int, length: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(length)
        return {
            "input_ids": torch.randint(3, 96, (batch, length), generator=generator),
            "encoder_hidden_states": torch.randn((batch, 17, 64), generator=generator),
        }

    def call(m: Any, ids: Any, patches: Any) -> Any:
        return m(input_ids=ids, encoder_hidden_states=patches, use_cache=False).logits

    axes = {"input_ids": BATCH_LENGTH, "encoder_hidden_states": BATCH, "logits": BATCH_LENGTH}
    return Case(wrap(model, call), (feeds(2, 7), feeds(3, 5)), ("logits",), axes)


@architecture("hiera", EAGER)
def hiera(variant: Variant) -> Case:
    """Attention inside mask units, whose queries are pooled."""
    import transformers

    config = transformers.HieraConfig(
        image_size=[32, 32],
        embed_dim=32,
        depths=[1, 1],
        num_heads=[2, 4],
        num_query_pool=1,
        query_stride=[2, 2],
        masked_unit_size=[4, 4],
        masked_unit_attention=[True, False],
    )
    return backbone(config, variant)


@architecture("levit", EAGER)
def levit(variant: Variant) -> Case:
    """Fewer query and key channels than value channels, fewer queries than keys, a bias for each distance."""
    import transformers

    config = transformers.LevitConfig(
        image_size=64,
        hidden_sizes=[32, 48, 64],
        num_attention_heads=[2, 3, 4],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
        mlp_ratio=[2, 2, 2],
        attention_ratio=[2, 2, 2],
    )
    return backbone(config, variant, 64)


@architecture("mobilevit", EAGER)
def mobilevit(variant: Variant) -> Case:
    """Attention between the same pixels of all patches."""
    import transformers

    config = transformers.MobileViTConfig(
        image_size=64,
        hidden_sizes=[48, 64, 80],
        neck_hidden_sizes=[8, 16, 24, 32, 40, 48, 64],
        num_attention_heads=4,
    )
    return backbone(config, variant, 64)


@architecture("mgp_str", EAGER)
def mgp_str(variant: Variant) -> Case:
    """A reader of scene text: ViT, then three heads that weigh patches."""
    import transformers

    config = transformers.MgpstrConfig(
        image_size=[32, 32],
        patch_size=8,
        max_token_length=5,
        num_character_labels=9,
        num_bpe_labels=12,
        num_wordpiece_labels=12,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        mlp_ratio=2.0,
    )
    model = seeded(transformers.MgpstrForSceneTextRecognition(config))
    case = pixels_case(wrap(model, lambda m, pixels: tuple(m(pixels).logits)))
    outputs = ("characters", "pieces", "words")
    axes = dict.fromkeys(("pixel_values", *outputs), BATCH)
    return Case(case.module, case.feeds, outputs, axes)


@architecture("rt_detr", EAGER)
def rt_detr(variant: Variant) -> Case:
    """Attention on the smallest map and between queries; the cross-attention is deformable, which is another thing."""
    import transformers

    config = transformers.RTDetrConfig(
        backbone_config=transformers.RTDetrResNetConfig(
            embedding_size=16,
            hidden_sizes=[16, 32, 48, 64],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        ),
        encoder_in_channels=[32, 48, 64],
        encoder_hidden_dim=32,
        encoder_ffn_dim=64,
        encoder_attention_heads=4,
        d_model=32,
        num_queries=5,
        decoder_in_channels=[32, 32, 32],
        decoder_ffn_dim=64,
        decoder_layers=2,
        decoder_attention_heads=4,
        num_denoising=0,
        num_labels=4,
    )
    model = seeded(transformers.RTDetrForObjectDetection(config))
    return pixels_case(wrap(model, lambda m, pixels: m(pixels).logits), 64, "logits")
