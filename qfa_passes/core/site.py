"""AttentionSite: the canonical record of one attention block, whatever exporter wrote it; Refusal: why one is not."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor that is Q, K or V once its axes are permuted to (batch, head, row, channel).

    Attributes:
        tensor: Name of a value in the graph.
        perm: Axes for a Transpose to (B, heads, rows, channels); None if it already has that layout.
        scale: Static step found on a QuantizeLinear/DequantizeLinear pair right before the attention; else None.
    """

    tensor: str
    perm: tuple[int, ...] | None = None
    scale: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Mask:
    """Which scores count. All parts apply together.

    Attributes:
        causal: Query i sees keys j <= i; proven for every length and input.
        boolean: Name of a bool value broadcastable to (B, H, S, T), true = may attend.
        bias: Name of a float value broadcastable to (B, H, S, T) that is added to the scaled scores.
    """

    causal: bool = False
    boolean: str | None = None
    bias: str | None = None

    def describe(self) -> str:
        """Returns a few words for tables, such as ``causal + bias``."""
        parts = [
            word
            for word, present in (
                ("causal", self.causal),
                ("mask", self.boolean is not None),
                ("bias", self.bias is not None),
            )
            if present
        ]
        return " + ".join(parts) or "none"


@dataclass(frozen=True, slots=True)
class AttentionSite:
    """One attention block: softmax(scale * Q K^T + mask) V.

    Attributes:
        name: Unique, readable label (the name of its softmax or attention node).
        query: (B, H, S, D).
        key: (B, Hkv, T, D).
        value: (B, Hkv, T, Dv).
        output: Name of the value (B, H, S, Dv) that the block computes.
        mask: Mask of the scores.
        scale: Factor on Q K^T.
        num_heads: H.
        kv_num_heads: Hkv.
        qk_channels: D.
        v_channels: Dv.
        dtype: ONNX element type of query and output.
        nodes: Names of the nodes that compute only this block; the anchor (softmax) comes first.
        exporter: How it was written: ``decomposed`` or ``ai.onnx::Attention``.
        notes: What was seen on the way (repeated heads folded, NaN guard, scale split), for `inspect`.
    """

    name: str
    query: Operand
    key: Operand
    value: Operand
    output: str
    mask: Mask
    scale: float
    num_heads: int
    kv_num_heads: int
    qk_channels: int
    v_channels: int
    dtype: int
    nodes: tuple[str, ...]
    exporter: str
    notes: tuple[str, ...] = ()

    @property
    def quantized(self) -> bool:
        """True if Q, K and V all pass a Q/DQ pair on their way in."""
        return all(operand.scale is not None for operand in (self.query, self.key, self.value))


@dataclass(frozen=True, slots=True)
class Refusal:
    """A candidate that was not matched. Nothing is ever guessed.

    Attributes:
        where: Name of the anchor node.
        reason: What was not understood, naming the node and the tensors.
        hint: What the user can do.
        progress: How far the match came (steps understood), for `inspect --why-not`.
    """

    where: str
    reason: str
    hint: str = ""
    progress: tuple[str, ...] = field(default=())
