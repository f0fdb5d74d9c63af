"""AttentionSite: the canonical record of one attention block, whatever exporter wrote it; Refusal: why one is not."""

from dataclasses import dataclass, field
from enum import StrEnum

from qfa_passes.core.view import Views


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor that is Q, K or V once it is viewed as (batch, head, row, channel).

    Attributes:
        tensor: Name of a value in the graph.
        views: Steps from the tensor to (B, heads, rows, channels); none if it already has that layout.
        scale: Static step found on a QuantizeLinear/DequantizeLinear pair right before the attention; else None.
        path: Nodes from the tensor down to the attention product that reads it, nearest to the tensor first.
    """

    tensor: str
    views: Views = ()
    scale: tuple[float, ...] | None = None
    path: tuple[str, ...] = ()


class MaskKind(StrEnum):
    """How a value restricts attention."""

    BIAS = "bias"  # float, added to the scaled scores
    KEEP = "keep"  # bool, true = may attend
    DROP = "drop"  # bool, true = may not attend


@dataclass(frozen=True, slots=True)
class MaskTerm:
    """One mask of a block.

    Attributes:
        tensor: Name of the value.
        kind: Its meaning.
        fill: For KEEP and DROP: the score of a masked key. With -inf a fully masked row is zero; with a finite number
            it is the plain mean of V, which matters only for rows that are padding.
        views: Steps after which the value is broadcastable to (B, H, S, T).
        factor: For BIAS: what the value is multiplied by before it is added.
        fewer_keys: The last axis may be shorter than T; keys beyond it are masked.
    """

    tensor: str
    kind: MaskKind
    fill: float = float("-inf")
    views: Views = ()
    factor: float = 1.0
    fewer_keys: bool = False


@dataclass(frozen=True, slots=True)
class Mask:
    """Which scores count: all parts apply together.

    Query i stands at position p = i, or p = i + T - S where the queries are the last of the keys (T counts past keys,
    and is kv_length[b] where that is given).

    Attributes:
        causal: The query at p sees keys j <= p, whatever the inputs.
        queries_at_end: The queries are the last of the keys.
        left_window: The query at p sees keys j >= p - left_window; -1: all of them.
        right_window: The query at p sees keys j <= p + right_window; -1: all of them.
        kv_length: Name of an int64 value (B): only the first kv_length[b] keys are seen; None: all T.
        terms: Further masks.
    """

    causal: bool = False
    terms: tuple[MaskTerm, ...] = ()
    queries_at_end: bool = False
    left_window: int = -1
    right_window: int = -1
    kv_length: str | None = None

    def describe(self) -> str:
        """Returns a few words for tables, such as ``causal + bias``."""
        words = ["causal"] if self.causal else []
        if max(self.left_window, self.right_window) >= 0:
            words.append(f"window {_window(self)}")
        if self.kv_length is not None:
            words.append("lengths")
        words += ["bias" if term.kind is MaskKind.BIAS else "mask" for term in self.terms]
        return " + ".join(words) or "none"


def _window(mask: Mask) -> str:
    """Keys seen to the left and to the right: ``511``, or ``3/1`` where both count; ``-`` for all."""
    left, right = ("-" if keys < 0 else str(keys) for keys in (mask.left_window, mask.right_window))
    return left if mask.causal and right in ("-", "0") else f"{left}/{right}"


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys and values of earlier runs, in front of K and V, and those that the next run gets.

    Attributes:
        past_key: Name of (B, Hkv, P, D).
        past_value: Name of (B, Hkv, P, Dv).
        present_key: Name of the value (B, Hkv, P + T, D) that the block computes; None if nobody reads it.
        present_value: Likewise, (B, Hkv, P + T, Dv).
    """

    past_key: str
    past_value: str
    present_key: str | None = None
    present_value: str | None = None


@dataclass(frozen=True, slots=True)
class AttentionSite:
    """One attention block: softmax(scale * Q K^T + mask) V.

    Attributes:
        name: Unique, readable label (the name of its softmax or attention node).
        query: (B, H, S, D).
        key: (B, Hkv, T, D).
        value: (B, Hkv, T, Dv).
        output: Name of the value that the block computes.
        mask: Mask of the scores.
        scale: Factor on Q K^T.
        num_heads: H.
        kv_num_heads: Hkv.
        qk_channels: D.
        v_channels: Dv.
        dtype: ONNX element type of query and output.
        nodes: Names of the nodes that compute only this block; the anchor (softmax) comes first.
        exporter: How it was written: ``decomposed`` or the operator, such as ``ai.onnx::Attention``.
        notes: What was seen on the way (repeated heads folded, NaN guard, scale split), for `inspect`.
        softcap: c > 0: the scaled score s counts as c * tanh(s / c), before masks; 0: none.
        sink: Name of H numbers in any shape: the logit of one more key per head, whose value is zero; None: none.
        cache: Earlier keys and values that the block joins itself; None if key and value are complete.
        output_views: Steps from (B, H, S, Dv) to the layout of ``output``.
        rounded: The block rounds its scores or weights to codes on the way; the operator does not.
        kind: Words such as ``self``, ``cross`` and ``MLA``, as far as they can be told; for `inspect`.
        extents: B, S and T, past keys included, each a number, symbols, or ``?``; for `inspect`.
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
    softcap: float = 0.0
    sink: str | None = None
    cache: Cache | None = None
    output_views: Views = ()
    rounded: bool = False
    kind: tuple[str, ...] = ()
    extents: tuple[str, ...] = ()

    @property
    def quantized(self) -> bool:
        """True if Q, K and V all pass a Q/DQ pair on their way in."""
        return all(operand.scale is not None for operand in (self.query, self.key, self.value))

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the values that the block reads, each once."""
        names = [operand.tensor for operand in (self.query, self.key, self.value)]
        names += [term.tensor for term in self.mask.terms]
        names += [name for name in (self.mask.kv_length, self.sink) if name is not None]
        if self.cache is not None:
            names += [self.cache.past_key, self.cache.past_value]
        return tuple(dict.fromkeys(names))

    @property
    def computes(self) -> tuple[str, ...]:
        """Names of the values that the block computes, its output first."""
        cache = self.cache
        present = () if cache is None else (cache.present_key, cache.present_value)
        return (self.output, *(name for name in present if name is not None))

    def describe(self) -> str:
        """Kind, heads, channels and mask in a few words, e.g. ``self GQA 9:3, D 64, causal``."""
        heads, channels = f"MHA {self.num_heads}", f"D {self.qk_channels}"
        if self.kv_num_heads != self.num_heads:
            kind = "MQA" if self.kv_num_heads == 1 else "GQA"
            heads = f"{kind} {self.num_heads}:{self.kv_num_heads}"
        if self.v_channels != self.qk_channels:
            channels += f"/{self.v_channels}"
        parts = [" ".join((*self.kind, heads)), channels, self.mask.describe()]
        parts += [f"softcap {self.softcap:g}"] if self.softcap else []
        parts += ["sink"] if self.sink is not None else []
        parts += ["cache"] if self.cache is not None else []
        return ", ".join(parts)


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
