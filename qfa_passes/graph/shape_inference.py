"""Symbolic shapes of every value, and symbolic contents of the small integer tensors that compute shapes.

ONNX shape inference gives types and ranks; this pass keeps the algebra that it drops (a Reshape target made from
Shape, Gather, Mul and Concat), so that a layout such as (B, S, H*D) -> (B, S, H, D) is proven for all lengths at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.graph.constants import constant_value
from qfa_passes.graph.contrib_shapes import contrib_shapes
from qfa_passes.graph.dims import Dim
from qfa_passes.graph.ir import Graph
from qfa_passes.graph.shape_rules import RULES
from qfa_passes.graph.shape_values import IntTensor, evaluate, split_list
from qfa_passes.graph.shapes import Shape, ShapeMap
from qfa_passes.graph.spatial_shapes import SPATIAL_RULES

_MAX_ELEMENTS: Final = 64


def infer_shapes(graph: Graph) -> ShapeMap:
    """Propagates shapes and contents through the graph; nodes must be in topological order."""
    known = ShapeMap()
    for tensor in graph.gs.tensors().values():
        if isinstance(tensor, gs.Constant) or not tensor.inputs:
            _seed(tensor, known)
    for node in graph.gs.nodes:
        results = _results(node, known)
        for position, output in enumerate(node.outputs):
            shape = results[position] if position < len(results) else None
            shape = _sharpened(shape, _declared(output))
            if shape is not None:
                known.shapes[output.name] = shape
        for output, content in zip(node.outputs, _contents(node, known), strict=False):
            if content is not None and len(content.items) <= _MAX_ELEMENTS:
                known.contents[output.name] = content
                known.shapes[output.name] = content.shape
    return known


def _sharpened(shape: Shape | None, declared: Shape | None) -> Shape | None:
    """The shape with the numbers and names that only the declared one knows."""
    if shape is None or declared is None or len(shape) != len(declared):
        return declared if shape is None else shape
    return tuple(
        other if other.value is not None or (dim.is_anonymous and not _is_invented(other)) else dim
        for dim, other in zip(shape, declared, strict=True)
    )


def _is_invented(dim: Dim) -> bool:
    """True for a name that the onnx package makes up for each value anew, whatever it has in common with others."""
    return dim.is_anonymous or str(dim).startswith("unk__")


_MALFORMED: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What a rule may raise for a node that lacks inputs or attributes, or holds impossible ones: nothing is known then."""


def _results(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    rule = None if node.domain else RULES.get(node.op)
    try:
        if node.domain == "com.microsoft":
            if node.op == "FusedConv":  # a convolution and what is done to each of its numbers
                return SPATIAL_RULES["Conv"](node, known)
            return contrib_shapes(node, known.shapes)
        return () if rule is None else rule(node, known)
    except _MALFORMED:
        return ()


def _contents(node: gs.Node, known: ShapeMap) -> Sequence[IntTensor | None]:
    try:
        if node.op == "Split" and not node.domain:
            return split_list(node, known.contents)
        return (evaluate(node, known.contents, known.shapes),)
    except _MALFORMED:
        return ()


def _seed(tensor: gs.Tensor, known: ShapeMap) -> None:
    shape = _declared(tensor)
    if shape is not None:
        known.shapes[tensor.name] = shape
    if isinstance(tensor, gs.Constant) and tensor.dtype in (np.int64, np.int32, np.bool_):
        value = constant_value(tensor)
        if value is not None and value.size <= _MAX_ELEMENTS and value.ndim <= 1:
            known.contents[tensor.name] = IntTensor.of(value)


def _declared(tensor: gs.Tensor) -> Shape | None:
    if tensor.shape is None:
        return None
    dims = []
    for extent in tensor.shape:
        unnamed = isinstance(extent, str) and (not extent or extent.startswith("?"))
        if extent is None or unnamed or (isinstance(extent, int) and extent < 0):
            dims.append(Dim.unknown())
        else:
            dims.append(Dim.parse(extent) if isinstance(extent, str) else Dim.of(int(extent)))
    return tuple(dims)
