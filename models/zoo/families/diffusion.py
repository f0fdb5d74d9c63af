"""Image generators, by diffusers."""

from __future__ import annotations

from typing import Any

from models.zoo.case import BATCH, SDPA, Case, Variant, architecture, seeded, wrap


def _prepared(model: Any, variant: Variant) -> Any:
    """Diffusers chooses how attention is computed by a processor object."""
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    for module in model.modules():
        if hasattr(module, "set_processor"):
            module.set_processor(
                AttnProcessor2_0() if variant.attention == SDPA else AttnProcessor()
            )
    return seeded(model)


@architecture("sd_unet")
def sd_unet(variant: Variant) -> Case:
    """A UNet with self- and cross-attention at several resolutions."""
    import torch
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )

    def call(m: Any, sample: Any, timestep: Any, text: Any) -> Any:
        return m(sample, timestep, text, return_dict=False)[0]

    def feeds(batch: int, words: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(words)
        return {
            "sample": torch.randn((batch, 4, 8, 8), generator=generator),
            "timestep": torch.arange(3, 3 + batch),
            "text": torch.randn((batch, words, 32), generator=generator),
        }

    axes = {
        **dict.fromkeys(("sample", "timestep", "noise"), BATCH),
        "text": {0: "batch", 1: "words"},
    }
    case = Case(wrap(_prepared(model, variant), call), (feeds(2, 7), feeds(3, 5)), ("noise",), axes)
    return case


@architecture("dit")
def dit(variant: Variant) -> Case:
    """Patches, norms shifted and scaled by the timestep."""
    import torch
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=10,
        norm_num_groups=8,
    )

    def call(m: Any, sample: Any, timestep: Any, label: Any) -> Any:
        return m(sample, timestep, label, return_dict=False)[0]

    def feeds(batch: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(batch)
        return {
            "sample": torch.randn((batch, 4, 8, 8), generator=generator),
            "timestep": torch.arange(3, 3 + batch),
            "label": torch.arange(batch),
        }

    names = ("sample", "timestep", "label", "noise")
    module = wrap(_prepared(model, variant), call)
    return Case(module, (feeds(2), feeds(3)), names[3:], dict.fromkeys(names, BATCH))


@architecture("sd3", SDPA)
def sd3(variant: Variant) -> Case:
    """Text and picture are one sequence for attention, with projections of their own."""
    import torch
    from diffusers import SD3Transformer2DModel

    model = seeded(
        SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=4,
            joint_attention_dim=32,
            caption_projection_dim=64,
            pooled_projection_dim=32,
            out_channels=4,
            pos_embed_max_size=8,
        )
    )

    def call(m: Any, sample: Any, text: Any, pooled: Any, timestep: Any) -> Any:
        return m(sample, text, pooled, timestep, return_dict=False)[0]

    def feeds(batch: int, words: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(words)
        return {
            "sample": torch.randn((batch, 4, 8, 8), generator=generator),
            "text": torch.randn((batch, words, 32), generator=generator),
            "pooled": torch.randn((batch, 32), generator=generator),
            "timestep": torch.arange(3, 3 + batch),
        }

    axes = {
        **dict.fromkeys(("sample", "pooled", "timestep", "noise"), BATCH),
        "text": {0: "batch", 1: "words"},
    }
    return Case(wrap(model, call), (feeds(2, 7), feeds(3, 5)), ("noise",), axes)
