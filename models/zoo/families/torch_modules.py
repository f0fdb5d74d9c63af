"""The attention that torch.nn brings."""

from __future__ import annotations

from typing import Any

from models.zoo.case import BATCH_LENGTH, EAGER, SDPA, Case, Variant, architecture, seeded, wrap

_EAGER_WEIGHTS = {EAGER: True, SDPA: False}


def _feeds(width: int, memory: bool = False) -> tuple[dict[str, Any], ...]:
    import torch

    both = []
    for batch, length in ((2, 7), (3, 5)):
        generator = torch.Generator().manual_seed(length)
        feeds = {"hidden": torch.randn((batch, length, width), generator=generator)}
        if memory:
            feeds["memory"] = torch.randn((batch, length + 2, width), generator=generator)
        both.append(feeds)
    return tuple(both)


@architecture("nn_mha")
def nn_mha(variant: Variant) -> Case:
    """torch.nn.MultiheadAttention; asked for the weights it computes by matrix products, else by sdpa."""
    import torch

    torch.backends.mha.set_fastpath_enabled(False)

    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = torch.nn.MultiheadAttention(64, 4, batch_first=True)
            self.cross = torch.nn.MultiheadAttention(64, 4, kdim=32, vdim=32, batch_first=True)
            self.narrow = torch.nn.Linear(64, 32)

        def forward(self, hidden: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
            weights = _EAGER_WEIGHTS[variant.attention]
            hidden = hidden + self.own(hidden, hidden, hidden, need_weights=weights)[0]
            memory = self.narrow(memory)
            found: torch.Tensor = self.cross(hidden, memory, memory, need_weights=weights)[0]
            return found

    axes = {"hidden": BATCH_LENGTH, "memory": {0: "batch", 1: "source"}, "output": BATCH_LENGTH}
    return Case(
        wrap(seeded(Two()), lambda m, hidden, memory: m(hidden, memory)),
        _feeds(64, memory=True),
        ("output",),
        axes,
    )


@architecture("nn_encoder", SDPA)
def nn_encoder(variant: Variant) -> Case:
    """torch.nn.TransformerEncoder without its fused fast path, which no exporter knows."""
    import torch

    torch.backends.mha.set_fastpath_enabled(False)
    layer = torch.nn.TransformerEncoderLayer(64, 4, 96, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    axes = {"hidden": BATCH_LENGTH, "output": BATCH_LENGTH}
    return Case(wrap(seeded(model), lambda m, hidden: m(hidden)), _feeds(64), ("output",), axes)


@architecture("nn_decoder", SDPA)
def nn_decoder(variant: Variant) -> Case:
    """torch.nn.TransformerDecoder under a causal mask."""
    import torch

    torch.backends.mha.set_fastpath_enabled(False)
    model = torch.nn.TransformerDecoder(
        torch.nn.TransformerDecoderLayer(64, 4, 96, batch_first=True), 2
    )

    def call(m: Any, hidden: torch.Tensor, memory: torch.Tensor) -> Any:
        length = hidden.shape[1]
        later = torch.triu(torch.full((length, length), float("-inf")), diagonal=1)
        # Unless told, the module looks whether the mask is causal, and cannot be traced.
        return m(hidden, memory, tgt_mask=later, tgt_is_causal=True)

    axes = {"hidden": BATCH_LENGTH, "memory": {0: "batch", 1: "source"}, "output": BATCH_LENGTH}
    return Case(wrap(seeded(model), call), _feeds(64, memory=True), ("output",), axes)
