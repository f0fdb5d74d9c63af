"""Shapes behind matrix products and attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import onnx_graphsurgeon as gs

from qfa_passes.graph.dims import Dim
from qfa_passes.graph.shapes import Rule, Shape, ShapeMap, broadcast


def _matmul(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    return (_product(known.shape(node.inputs[0]), known.shape(node.inputs[1])),)


def _qlinear_matmul(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    return (_product(known.shape(node.inputs[0]), known.shape(node.inputs[3])),)


def _product(left: Shape | None, right: Shape | None) -> Shape | None:
    if left is None or right is None or len(left) < 2 or len(right) < 2:
        return None
    batch = broadcast(left[:-2], right[:-2]) if len(left) > 2 or len(right) > 2 else ()
    return None if batch is None else (*batch, left[-2], right[-1])


def _gemm(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    left, right = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    if left is None or right is None or len(left) != 2 or len(right) != 2:
        return (None,)
    return ((left[int(node.attrs.get("transA", 0))], right[1 - int(node.attrs.get("transB", 0))]),)


def _attention(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    """Output, present keys and values, scores."""
    query, key, value = (known.shape(tensor) for tensor in node.inputs[:3])
    if query is None or key is None or value is None:
        return (None,)
    if {len(query), len(key), len(value)} == {4}:
        heads, kv_heads, rows = query[1], key[1], query[2]
        sizes = [key[3], value[3]]
        output: Shape = (query[0], heads, rows, value[3])
    elif {len(query), len(key), len(value)} == {3}:
        heads, kv_heads = (
            Dim.of(int(node.attrs[name])) for name in ("q_num_heads", "kv_num_heads")
        )
        rows = query[1]
        sizes = [shape[2].divide(kv_heads) or Dim.unknown() for shape in (key, value)]
        output = (query[0], rows, heads * sizes[1])
    else:
        return (None,)
    total = key[-2]
    if len(node.inputs) > 4 and node.inputs[4].name:
        past = known.shape(node.inputs[4])
        total = Dim.unknown() if past is None or len(past) != 4 else past[2] + total
    present = tuple((key[0], kv_heads, total, size) for size in sizes)
    return (output, *present, (query[0], heads, rows, total))


PRODUCT_RULES: Final[dict[str, Rule]] = {
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _qlinear_matmul,
    "Gemm": _gemm,
    "Attention": _attention,
}
