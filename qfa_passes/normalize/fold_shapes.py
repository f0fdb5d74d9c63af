"""Integer arithmetic whose result is known becomes a constant."""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator

from qfa_passes.core.passes import Contract
from qfa_passes.graph.constants import constant_value
from qfa_passes.graph.graph_pass import GraphPass
from qfa_passes.graph.ir import Graph
from qfa_passes.graph.shape_inference import infer_shapes
from qfa_passes.graph.shapes import ShapeMap
from qfa_passes.normalize.to_constants import to_constants

_MOST_ELEMENTS: Final = 64
_REPEATABLE: Final = """
    Abs Add And Cast Concat ConstantOfShape Div Equal Expand Flatten Gather GatherElements GatherND Greater
    GreaterOrEqual Identity Less LessOrEqual Max Min Mod Mul Neg Not OneHot Or Pad Range ReduceMax ReduceMin
    ReduceProd ReduceSum Reshape ScatterElements ScatterND Size Slice Squeeze Sub Tile Transpose Unsqueeze Where
    Xor
"""
"""Operators that give one result for one input, which on integers leaves nothing to rounding."""


class FoldShapes(GraphPass):
    """Integer tensors that are the same in every run.

    Before: ``d = Gather(Shape(q), 3)``, ``h = Div(d, 2)``. After: the initializer ``h`` = 32 where q is (B, H, S, 64).
    """

    name: ClassVar[str] = "fold-shapes"
    contract: ClassVar[Contract] = Contract.EXACT

    def run(self, graph: Graph) -> int:
        """Replaces every computed integer tensor with a known content."""
        shapes = infer_shapes(graph)
        return to_constants(graph, lambda node: _content(node, graph, shapes))


def _content(node: gs.Node, graph: Graph, shapes: ShapeMap) -> npt.NDArray[np.generic] | None:
    output = node.outputs[0]
    if output.dtype not in (np.int64, np.int32) or graph.is_captured(output):
        return None
    value = _from_shapes(output, shapes)
    return _from_constants(node, graph) if value is None else value


def _from_shapes(output: gs.Tensor, shapes: ShapeMap) -> npt.NDArray[np.generic] | None:
    content = shapes.content(output)
    if content is None:
        return None
    numbers = [item.value for item in content.items]
    if any(number is None for number in numbers):
        return None
    value = np.array(numbers, dtype=output.dtype)
    return value.reshape(()) if content.scalar else value


def _from_constants(node: gs.Node, graph: Graph) -> npt.NDArray[np.generic] | None:
    """The result of a node that reads nothing but small integer constants."""
    if node.domain or node.op not in _REPEATABLE.split() or not node.inputs:
        return None
    for tensor in node.inputs:
        value = constant_value(tensor) if isinstance(tensor, gs.Constant) else None
        if tensor.name and (
            value is None or value.size > _MOST_ELEMENTS or value.dtype.kind not in "iub"
        ):
            return None
    output = node.outputs[0]
    alone = gs.Graph(nodes=[node], outputs=[output], opset=graph.opset)
    try:
        proto = gs.export_onnx(alone, do_type_check=False)
        (result,) = ReferenceEvaluator(proto).run(None, {})
    except Exception:  # the reference evaluator raises whatever numpy raises
        return None
    value = np.asarray(result)
    fits = value.size <= _MOST_ELEMENTS and value.dtype == output.dtype
    return value if fits else None
