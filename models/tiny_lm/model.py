"""The model: RMSNorm, rotary positions, grouped-query attention, SwiGLU; one token is one byte."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch's own documentation uses)
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes: H query heads share Hkv key/value heads of D channels."""

    vocabulary: int = 256
    layers: int = 4
    width: int = 192
    heads: int = 6
    kv_heads: int = 2
    head_size: int = 32
    hidden: int = 384
    rope_theta: float = 10000.0


class RMSNorm(nn.Module):
    """Divide by the root mean square of the channels, then scale each channel."""

    def __init__(self, width: int) -> None:
        """Start with scale one for `width` channels."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, C) -> (B, S, C)."""
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn channel c against channel c + D/2: (B, H, S, D), (S, D), (S, D) -> (B, H, S, D)."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


def repeat_heads(x: Tensor, times: int) -> Tensor:
    """Copy each head for the G query heads that share it: (B, Hkv, T, D) -> (B, H, T, D)."""
    batch, heads, length, size = x.shape
    x = x[:, :, None].expand(batch, heads, times, length, size)
    return x.reshape(batch, heads * times, length, size)


class Attention(nn.Module):
    """Causal grouped-query attention."""

    def __init__(self, config: Config) -> None:
        """Create the four projections."""
        super().__init__()
        self.config = config
        self.q_proj = nn.Linear(config.width, config.heads * config.head_size, bias=False)
        self.k_proj = nn.Linear(config.width, config.kv_heads * config.head_size, bias=False)
        self.v_proj = nn.Linear(config.width, config.kv_heads * config.head_size, bias=False)
        self.o_proj = nn.Linear(config.heads * config.head_size, config.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, S, C) -> (B, S, C)."""
        batch, length, _ = x.shape
        shape = (batch, length, -1, self.config.head_size)
        q = rotate(self.q_proj(x).reshape(shape).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x).reshape(shape).transpose(1, 2), cos, sin)
        v = self.v_proj(x).reshape(shape).transpose(1, 2)
        group = self.config.heads // self.config.kv_heads
        y = F.scaled_dot_product_attention(
            q, repeat_heads(k, group), repeat_heads(v, group), is_causal=True
        )
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))


class SwiGLU(nn.Module):
    """Feed-forward layer whose hidden channels are gated by a second projection."""

    def __init__(self, config: Config) -> None:
        """Create the three projections."""
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.hidden, bias=False)
        self.up_proj = nn.Linear(config.width, config.hidden, bias=False)
        self.down_proj = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, C) -> (B, S, C)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention and feed-forward, each added to the stream behind a norm."""

    def __init__(self, config: Config) -> None:
        """Create one layer."""
        super().__init__()
        self.attention_norm = RMSNorm(config.width)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.width)
        self.mlp = SwiGLU(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, S, C) -> (B, S, C)."""
        x = x + self.attention(self.attention_norm(x), cos, sin)
        return x + self.mlp(self.mlp_norm(x))


class TinyLM(nn.Module):
    """The language model; the output layer shares the weights of the embedding."""

    def __init__(self, config: Config | None = None) -> None:
        """Create the model with weights from torch's current random state."""
        super().__init__()
        self.config = config or Config()
        width, layers = self.config.width, self.config.layers
        self.embedding = nn.Embedding(self.config.vocabulary, width)
        self.blocks = nn.ModuleList(Block(self.config) for _ in range(layers))
        self.norm = RMSNorm(width)
        exponent = torch.arange(0, self.config.head_size, 2) / self.config.head_size
        self.register_buffer("frequency", self.config.rope_theta**-exponent, persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                # The two projections that write to the stream start small: 2 per layer add up.
                writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * layers) ** 0.5 if writes else 0.02)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, S) int64 -> logits (B, S, 256)."""
        angle = torch.arange(input_ids.shape[1], device=input_ids.device)[:, None] * self.frequency
        angle = torch.cat((angle, angle), dim=-1)
        cos, sin = angle.cos(), angle.sin()
        x = self.embedding(input_ids)
        for block in self.blocks:
            x = block(x, cos, sin)
        return F.linear(self.norm(x), self.embedding.weight)
