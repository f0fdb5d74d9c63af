"""Shapes of the operators of ``com.microsoft`` that stand around attention in models that were optimized before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import onnx_graphsurgeon as gs

from qfa_passes.graph.dims import Dim

Shapes = Mapping[str, tuple[Dim, ...]]
Result = Sequence[tuple[Dim, ...] | None]


def contrib_shapes(node: gs.Node, shapes: Shapes) -> Result:
    """Shapes of the outputs of a node of ``com.microsoft``, as far as they are known."""
    rule = _RULES.get(node.op)
    return () if rule is None else rule(node, shapes)


def _input(node: gs.Node, shapes: Shapes, position: int) -> tuple[Dim, ...] | None:
    return shapes.get(node.inputs[position].name) if position < len(node.inputs) else None


def _same(node: gs.Node, shapes: Shapes) -> Result:
    return (_input(node, shapes, 0),)


def _skip_norm(node: gs.Node, shapes: Shapes) -> Result:
    shape = _input(node, shapes, 0)
    return (shape, None, None, shape)  # the sum is output 3


def _embed_norm(node: gs.Node, shapes: Shapes) -> Result:
    ids, words = _input(node, shapes, 0), _input(node, shapes, 2)
    if ids is None or words is None:
        return ()
    rows = (*ids, words[-1])
    return (rows, (ids[0],), rows)


def _fused_matmul(node: gs.Node, shapes: Shapes) -> Result:
    left, right = _input(node, shapes, 0), _input(node, shapes, 1)
    batched = any(int(node.attrs.get(name, 0)) for name in ("transBatchA", "transBatchB"))
    if batched or left is None or right is None or min(len(left), len(right)) < 2:
        return ()
    rows = left[-1 if int(node.attrs.get("transA", 0)) else -2]
    columns = right[-2 if int(node.attrs.get("transB", 0)) else -1]
    if len(right) == 2 or left[:-2] == right[:-2]:
        return ((*left[:-2], rows, columns),)
    return ()


def _columns(node: gs.Node, shapes: Shapes) -> Result:
    """Products with a constant matrix that tell its columns in attribute N."""
    shape = _input(node, shapes, 0)
    return () if shape is None else ((*shape[:-1], Dim.of(int(node.attrs["N"]))),)


def _matrix(node: gs.Node, shapes: Shapes) -> Result:
    left, right = _input(node, shapes, 0), _input(node, shapes, 1)
    return () if left is None or right is None else ((*left[:-1], right[-1]),)


def _merged(node: gs.Node, shapes: Shapes) -> Result:
    rows, weights = _input(node, shapes, 0), _input(node, shapes, 1)
    if rows is None or weights is None:
        return ()
    sizes = node.attrs.get("qkv_hidden_sizes")
    width = Dim.of(int(sizes[2])) if sizes else weights[1].divide(Dim.of(3))
    return () if width is None else ((*rows[:-1], width),)


def _multi_head(node: gs.Node, shapes: Shapes) -> Result:
    query, value = _input(node, shapes, 0), _input(node, shapes, 2)
    if query is None:
        return ()
    if len(query) == 5:
        return ((*query[:2], query[2] * query[4]),)
    if value is None:
        return ((query),)
    return ((*query[:2], value[1] * value[3] if len(value) == 4 else value[2]),)


def _grouped(node: gs.Node, shapes: Shapes) -> Result:
    query = _input(node, shapes, 0)
    if query is None:
        return ()
    if node.inputs[1].name:
        return (query,)
    heads, kv_heads = int(node.attrs["num_heads"]), int(node.attrs["kv_num_heads"])
    head = query[2].divide(Dim.of(heads + 2 * kv_heads))
    return () if head is None else ((*query[:2], head * Dim.of(heads)),)


_SAME_SHAPE: Final = """
    BiasAdd BiasDropout BiasGelu FastGelu Gelu QuickGelu RotaryEmbedding GroupNorm BiasSoftmax
    QuantizeLinear DequantizeLinear BitmaskDropout
"""

_RULES: Final[dict[str, Callable[[gs.Node, Shapes], Result]]] = {
    **dict.fromkeys(_SAME_SHAPE.split(), _same),
    "SkipLayerNormalization": _skip_norm,
    "SkipSimplifiedLayerNormalization": _skip_norm,
    "EmbedLayerNormalization": _embed_norm,
    "FusedMatMul": _fused_matmul,
    "MatMulNBits": _columns,
    "MatMulBnb4": _columns,
    "DynamicQuantizeMatMul": _matrix,
    "MatMulIntegerToFloat": _matrix,
    "Attention": _merged,
    "MultiHeadAttention": _multi_head,
    "GroupQueryAttention": _grouped,
}
