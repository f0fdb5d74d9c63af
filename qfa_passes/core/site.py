"""AttentionSite: the canonical record of one attention block, whatever exporter wrote it; Refusal: why one is not."""

from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor that is Q, K or V once its axes are permuted to (batch, head, row, channel).

    Attributes:
        tensor: Name of a value in the graph.
        perm: Axes for a Transpose to (B, heads, rows, channels); None if it already has that layout.
        scale: Static step found on a QuantizeLinear/DequantizeLinear pair right before the attention; else None.
        path: Nodes from the tensor down to the attention product that reads it, nearest to the tensor first.
    """

    tensor: str
    perm: tuple[int, ...] | None = None
    scale: tuple[float, ...] | None = None
    path: tuple[str, ...] = ()


class MaskKind(StrEnum):
    """How a value restricts attention."""

    BIAS = "bias"  # float, added to the scaled scores
    KEEP = "keep"  # bool, true = may attend
    DROP = "drop"  # bool, true = may not attend


@dataclass(frozen=True, slots=True)
class MaskTerm:
    """One mask of a block; its value is broadcastable to (B, H, S, T).

    Attributes:
        tensor: Name of the value.
        kind: Its meaning.
        fill: For KEEP and DROP: the score of a masked key. With -inf a fully masked row is zero; with a finite number
            it is the plain mean of V, which matters only for rows that are padding.
    """

    tensor: str
    kind: MaskKind
    fill: float = float("-inf")


@dataclass(frozen=True, slots=True)
class Mask:
    """Which scores count: all parts apply together.

    Attributes:
        causal: Query i sees keys j <= i, whatever the inputs.
        terms: Further masks.
    """

    causal: bool = False
    terms: tuple[MaskTerm, ...] = ()

    def describe(self) -> str:
        """Returns a few words for tables, such as ``causal + bias``."""
        words = ["causal"] if self.causal else []
        words += ["bias" if term.kind is MaskKind.BIAS else "mask" for term in self.terms]
        return " + ".join(words) or "none"


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

    def describe(self) -> str:
        """Heads, channels and mask in a few words, e.g. ``GQA 9:3, D 64, causal``."""
        heads, channels = f"MHA {self.num_heads}", f"D {self.qk_channels}"
        if self.kv_num_heads != self.num_heads:
            kind = "MQA" if self.kv_num_heads == 1 else "GQA"
            heads = f"{kind} {self.num_heads}:{self.kv_num_heads}"
        if self.v_channels != self.qk_channels:
            channels += f"/{self.v_channels}"
        return f"{heads}, {channels}, {self.mask.describe()}"


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
