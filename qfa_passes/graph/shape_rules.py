"""Which rule gives the shapes of which operator of ai.onnx."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import onnx_graphsurgeon as gs

from qfa_passes.graph.axes_input import axes_of
from qfa_passes.graph.dims import Dim
from qfa_passes.graph.layout_shapes import LAYOUT_RULES
from qfa_passes.graph.product_shapes import PRODUCT_RULES
from qfa_passes.graph.selection_shapes import SELECTION_RULES
from qfa_passes.graph.shapes import Rule, Shape, ShapeMap, broadcast
from qfa_passes.graph.spatial_shapes import SPATIAL_RULES


def _same(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    return (known.shape(node.inputs[0]),)


def _elementwise(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    return (broadcast(*(known.shape(tensor) for tensor in node.inputs if tensor.name)),)


def _reduce(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape, axes = known.shape(node.inputs[0]), axes_of(node, known)
    if shape is None or axes is None:
        return (None,)
    if not axes and node.attrs.get("noop_with_empty_axes", 0):
        return (shape,)
    gone = {axis % len(shape) for axis in axes} or set(range(len(shape)))
    keep = node.attrs.get("keepdims", 1)
    dims = [
        Dim.of(1) if axis in gone else dim
        for axis, dim in enumerate(shape)
        if keep or axis not in gone
    ]
    return (tuple(dims),)


def _range(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    start, limit, delta = (known.content(tensor) for tensor in node.inputs)
    if start is None or limit is None or delta is None or delta.items[0] != 1:
        return ((Dim.unknown(),),)
    length = limit.items[0] - start.items[0]
    return ((length if length.non_negative else Dim.unknown(),),)


def _constant_of_shape(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    target = known.content(node.inputs[0])
    if target is None:
        return (None,)
    return (tuple(item if item.non_negative else Dim.unknown() for item in target.items),)


def _dynamic_quantize(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    return known.shape(node.inputs[0]), (), ()


_SAME_SHAPE: Final = """
    Identity Cast CastLike Abs Neg Exp Log Sqrt Reciprocal Sin Cos Tanh Erf Sigmoid Relu Gelu Not IsNaN IsInf Softmax
    LogSoftmax LayerNormalization RMSNormalization SimplifiedLayerNormalization RotaryEmbedding Clip Trilu CumSum Round
    Floor Ceil Sign QuantizeLinear DequantizeLinear Dropout Elu LeakyRelu HardSwish Softplus Mish GroupNormalization
    InstanceNormalization BatchNormalization LpNormalization MeanVarianceNormalization LRN Swish HardSigmoid Selu Celu
    Softsign ThresholdedRelu Shrink Hardmax Tan Sinh Cosh Asin Acos Atan Asinh Acosh Atanh CumProd BitwiseNot Scatter
    TensorScatter ReverseSequence RandomNormalLike RandomUniformLike Bernoulli
"""
_BROADCAST: Final = """
    Add Sub Mul Div Pow Where And Or Xor Equal Less LessOrEqual Greater GreaterOrEqual Max Min Mod Sum Mean PRelu
    BitwiseAnd BitwiseOr BitwiseXor BitShift
"""
_REDUCE: Final = """
    ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceSumSquare
"""

RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(_SAME_SHAPE.split(), _same),
    **dict.fromkeys(("ScatterND", "ScatterElements"), _same),
    **dict.fromkeys(_BROADCAST.split(), _elementwise),
    **dict.fromkeys(_REDUCE.split(), _reduce),
    "Range": _range,
    "ConstantOfShape": _constant_of_shape,
    "DynamicQuantizeLinear": _dynamic_quantize,
    **LAYOUT_RULES,
    **SELECTION_RULES,
    **PRODUCT_RULES,
    **SPATIAL_RULES,
}
