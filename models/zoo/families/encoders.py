"""Text encoders."""

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

_SMALL = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
}


def encoder(config: Any, variant: Variant, *, rotary: bool = False) -> Case:
    """An encoder of (input_ids, attention_mask) to hidden states."""
    import torch
    import transformers

    model = from_config(transformers.AutoModel, config, variant)

    def call(m: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        more = {}
        if rotary and variant.rotary_op:
            more["position_ids"] = torch.arange(ids.shape[1]).expand_as(ids)
        hidden: torch.Tensor = m(input_ids=ids, attention_mask=mask, **more).last_hidden_state
        return hidden

    module = wrap(model, call)
    names = ("input_ids", "attention_mask", "last_hidden_state")
    return Case(module, token_feeds(), names[2:], dict.fromkeys(names, BATCH_LENGTH))


@architecture("bert")
def bert(variant: Variant) -> Case:
    """Learned positions; the scale is a Mul or Div on the scores."""
    import transformers

    return encoder(transformers.BertConfig(**_SMALL), variant)


@architecture("roberta")
def roberta(variant: Variant) -> Case:
    """Positions are counted from input_ids."""
    import transformers

    return encoder(transformers.RobertaConfig(**_SMALL), variant)


@architecture("electra")
def electra(variant: Variant) -> Case:
    """BERT with embeddings of another size."""
    import transformers

    return encoder(transformers.ElectraConfig(**_SMALL, embedding_size=32), variant)


@architecture("albert")
def albert(variant: Variant) -> Case:
    """Layers share their weights."""
    import transformers

    return encoder(transformers.AlbertConfig(**_SMALL, embedding_size=32), variant)


@architecture("distilbert")
def distilbert(variant: Variant) -> Case:
    """The scale is on the query."""
    import transformers

    config = transformers.DistilBertConfig(
        vocab_size=96, dim=64, hidden_dim=96, n_layers=2, n_heads=4, max_position_embeddings=64
    )
    return encoder(config, variant)


@architecture("mpnet", EAGER)
def mpnet(variant: Variant) -> Case:
    """Relative positions as a bias that all layers share."""
    import transformers

    return encoder(transformers.MPNetConfig(**_SMALL), variant)


@architecture("modernbert")
def modernbert(variant: Variant) -> Case:
    """Packed projection, rotary positions, local windows in all layers but every third."""
    import transformers

    config = transformers.ModernBertConfig(
        **{**_SMALL, "num_hidden_layers": 3}, local_attention=6, pad_token_id=0
    )
    return encoder(config, variant, rotary=True)


@architecture("deberta_v2", EAGER)
def deberta_v2(variant: Variant) -> Case:
    """Disentangled positions: two gathered products are added to the scores; batch and heads are merged."""
    import transformers

    config = transformers.DebertaV2Config(
        **_SMALL,
        relative_attention=True,
        position_buckets=8,
        pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        type_vocab_size=0,
    )
    return encoder(config, variant)


@architecture("nomic_bert")
def nomic_bert(variant: Variant) -> Case:
    """An embedding model with rotary positions."""
    import transformers

    return encoder(transformers.NomicBertConfig(**_SMALL), variant)


@architecture("esm")
def esm(variant: Variant) -> Case:
    """Rotary positions behind a scaled query."""
    import transformers

    config = transformers.EsmConfig(
        **_SMALL, pad_token_id=1, mask_token_id=2, position_embedding_type="rotary"
    )
    return encoder(config, variant)


@architecture("convbert", EAGER)
def convbert(variant: Variant) -> Case:
    """Half the heads; beside them a convolution whose kernel is a softmax."""
    import transformers

    return encoder(transformers.ConvBertConfig(**_SMALL, embedding_size=64), variant)


@architecture("squeezebert", EAGER)
def squeezebert(variant: Variant) -> Case:
    """Projections are grouped convolutions; channels stand before positions."""
    import transformers

    return encoder(transformers.SqueezeBertConfig(**_SMALL, embedding_size=64), variant)


@architecture("xlnet", EAGER)
def xlnet(variant: Variant) -> Case:
    """Positions first, batch second; relative positions are a second product, shifted."""
    import transformers

    config = transformers.XLNetConfig(vocab_size=96, d_model=64, n_layer=2, n_head=4, d_inner=96)
    return encoder(config, variant)
