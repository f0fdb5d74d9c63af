"""Products and softmax of attention in other spellings become MatMul and Softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final

import onnx_graphsurgeon as gs

from qfa_passes.core.passes import Contract
from qfa_passes.graph.contrib.reading import DOMAIN
from qfa_passes.graph.graph_pass import GraphPass
from qfa_passes.graph.ir import Graph
from qfa_passes.graph.shape_inference import infer_shapes
from qfa_passes.graph.shapes import ShapeMap
from qfa_passes.normalize.einsum import read_product
from qfa_passes.normalize.near_softmax import is_softmax, near_softmax
from qfa_passes.normalize.writer import Writer, replace_nodes


class ExpandProducts(GraphPass):
    """Einsum, Gemm and FusedMatMul of two computed values, and BiasSoftmax, where they are part of attention.

    Before: ``s = Einsum<equation = "bqhd,bkhd->bhqk">(q, k)``, ``p = Softmax(s)``.
    After: ``a = Transpose<perm = [0, 2, 1, 3]>(q)``, ``b = Transpose<perm = [0, 2, 3, 1]>(k)``, ``s = MatMul(a, b)``,
    ``p = Softmax(s)``. The same operators elsewhere are left alone.
    """

    name: ClassVar[str] = "expand-products"
    contract: ClassVar[Contract] = Contract.EXACT

    def __init__(self, keep: frozenset[str] = frozenset()) -> None:
        """Takes the names of nodes that stay as they are."""
        self._keep = keep

    def run(self, graph: Graph) -> int:
        """Writes out every product that is near a softmax."""
        if not any(_is_product(node) or _is_bias_softmax(node) for node in graph.nodes):
            return 0
        near, shapes = near_softmax(graph, _is_product), infer_shapes(graph)

        def write(node: gs.Node) -> Writer | None:
            if node.name in self._keep or not (id(node) in near or _is_bias_softmax(node)):
                return None
            writer = Writer(graph, node, _element(node))
            return writer if _WRITE[node.op](writer, node, shapes) else None

        return replace_nodes(graph, write)


def _einsum(writer: Writer, node: gs.Node, shapes: ShapeMap) -> bool:
    ranks = shapes.rank(node.inputs[0]), shapes.rank(node.inputs[1])
    if ranks[0] is None or ranks[1] is None:
        return False
    product = read_product(str(node.attrs["equation"]), (ranks[0], ranks[1]))
    if product is None:
        return False
    left, right = reversed(node.inputs) if product.swapped else node.inputs
    left = writer.transpose("left", left, *product.left_perm)
    right = writer.transpose("right", right, *product.right_perm)
    if product.left_new:
        left = writer.unsqueeze("left_axes", left, *product.left_new)
    if product.right_new:
        right = writer.unsqueeze("right_axes", right, *product.right_new)
    result: gs.Tensor = writer.op("MatMul", "matmul", left, right)
    if not product.row:
        result = writer.op("Squeeze", "row", result, writer.numbers("row_axis", -2))
    writer.give(writer.transpose("result", result, *product.result_perm), node.outputs[0])
    return True


def _fused_matmul(writer: Writer, node: gs.Node, shapes: ShapeMap) -> bool:
    if any(int(node.attrs.get(name, 0)) for name in ("transBatchA", "transBatchB")):
        return False
    sides = _transposed(writer, node, shapes)
    alpha = float(node.attrs.get("alpha", 1.0))
    if sides is None or not (alpha == 1 or _plain(writer)):
        return False
    writer.give(_scaled(writer, "matmul", sides, alpha), node.outputs[0])
    return True


def _gemm(writer: Writer, node: gs.Node, shapes: ShapeMap) -> bool:
    sides = _transposed(writer, node, shapes)
    alpha, beta = float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
    if sides is None or not ((alpha == 1 and beta == 1) or _plain(writer)):
        return False
    result = _scaled(writer, "matmul", sides, alpha)
    if len(node.inputs) > 2 and node.inputs[2].name and beta:
        bias = node.inputs[2]
        if beta != 1:
            bias = writer.op("Mul", "bias", bias, writer.real("beta", beta))
        result = writer.op("Add", "biased", result, bias)
    writer.give(result, node.outputs[0])
    return True


def _bias_softmax(writer: Writer, node: gs.Node, shapes: ShapeMap) -> bool:
    data, bias = node.inputs
    rank, bias_rank = shapes.rank(data), shapes.rank(bias)
    inner = int(node.attrs.get("is_inner_broadcast", 0))
    if rank is None or bias_rank is None or bias_rank > rank or (inner and bias_rank < rank):
        return False
    if int(node.attrs.get("axis", 1)) not in (-1, rank - 1):
        return False
    biased = writer.op("Add", "biased", data, bias)
    writer.give(writer.op("Softmax", "softmax", biased, axis=-1), node.outputs[0])
    return True


def _transposed(
    writer: Writer, node: gs.Node, shapes: ShapeMap
) -> tuple[gs.Tensor, gs.Tensor] | None:
    """Both operands, with their last two axes swapped where the node says so."""
    sides: list[gs.Tensor] = []
    for tensor, name in zip(node.inputs[:2], ("transA", "transB"), strict=True):
        rank = shapes.rank(tensor)
        if rank is None or rank < 2:
            return None
        swapped = (*range(rank - 2), rank - 1, rank - 2)
        side = writer.transpose(name, tensor, *swapped) if int(node.attrs.get(name, 0)) else tensor
        sides.append(side)
    return sides[0], sides[1]


def _scaled(
    writer: Writer, step: str, sides: tuple[gs.Tensor, gs.Tensor], factor: float
) -> gs.Tensor:
    product = writer.op("MatMul", step, *sides)
    return (
        product
        if factor == 1
        else writer.op("Mul", "scaled", product, writer.real("alpha", factor))
    )


_WRITE: Final[dict[str, Callable[[Writer, gs.Node, ShapeMap], bool]]] = {
    "Einsum": _einsum,
    "FusedMatMul": _fused_matmul,
    "Gemm": _gemm,
    "BiasSoftmax": _bias_softmax,
}


def _is_product(node: gs.Node) -> bool:
    """A product of two computed values; one with a constant is a projection."""
    domain = DOMAIN if node.op == "FusedMatMul" else ""
    if node.op not in ("Einsum", "FusedMatMul", "Gemm") or (node.domain or "") != domain:
        return False
    sides = node.inputs[:2]
    return len(sides) == 2 and not any(isinstance(tensor, gs.Constant) for tensor in sides)


def _is_bias_softmax(node: gs.Node) -> bool:
    return node.op == "BiasSoftmax" and is_softmax(node)


def _element(node: gs.Node) -> Any:
    kinds = [tensor.dtype for tensor in (*node.outputs, *node.inputs) if tensor.dtype is not None]
    return kinds[0] if kinds else None


def _plain(writer: Writer) -> bool:
    """True if constants of the element type can be written."""
    return writer.element is not None and not isinstance(writer.element, int)
