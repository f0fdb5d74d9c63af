"""Symbolic shapes of every value, and symbolic contents of the small integer tensors that compute shapes.

ONNX shape inference gives types and ranks; this pass keeps the algebra that it drops (a Reshape target made from
Shape, Gather, Mul and Concat), so that a layout such as (B, S, H*D) -> (B, S, H, D) is proven for all lengths at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.graph.constants import constant_value
from qfa_passes.graph.contrib_shapes import contrib_shapes
from qfa_passes.graph.dims import Dim, product
from qfa_passes.graph.ir import Graph
from qfa_passes.graph.shape_values import IntTensor, evaluate, split_list
from qfa_passes.graph.spatial_shapes import SPATIAL_RULES
from qfa_passes.graph.spatial_shapes import Rule as SpatialRule

Shape = tuple[Dim, ...]

_MAX_ELEMENTS: Final = 64


@dataclass(slots=True)
class ShapeMap:
    """Shapes and integer contents by value name. A missing entry means: not known."""

    shapes: dict[str, Shape] = field(default_factory=dict)
    contents: dict[str, IntTensor] = field(default_factory=dict)

    def shape(self, tensor: gs.Tensor) -> Shape | None:
        """Symbolic shape of a value."""
        return self.shapes.get(tensor.name)

    def rank(self, tensor: gs.Tensor) -> int | None:
        """Number of axes of a value."""
        shape = self.shapes.get(tensor.name)
        return None if shape is None else len(shape)

    def content(self, tensor: gs.Tensor) -> IntTensor | None:
        """Symbolic content of a small integer tensor."""
        return self.contents.get(tensor.name)


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
    rule = None if node.domain else _RULES.get(node.op)
    try:
        if node.domain == "com.microsoft":
            if node.op == "FusedConv":  # a convolution and what is done to each of its numbers
                return _spatial(SPATIAL_RULES["Conv"], node, known)
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


Rule = Callable[[gs.Node, ShapeMap], Sequence[Shape | None]]


def _same(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    return (known.shape(node.inputs[0]),)


def broadcast(*shapes: Shape | None, trust_names: bool = True) -> Shape | None:
    """The shape that numpy broadcasting gives, or None if a rank is not known.

    Extents that meet are equal or 1 in every valid run. Where a named symbol meets an anonymous one the result carries
    the name unless ``trust_names`` is off: models do not count on a named extent being 1 to be stretched, except in
    an Expand.
    """
    present = [shape for shape in shapes if shape is not None]
    if len(present) != len(shapes) or not present:
        return None
    rank = max(len(shape) for shape in present)
    result = []
    for axis in range(rank):
        extents = [
            shape[axis - rank + len(shape)] for shape in present if axis - rank + len(shape) >= 0
        ]
        others = list(dict.fromkeys(extent for extent in extents if extent != 1))
        numbers = [extent for extent in others if extent.value is not None]
        named = [extent for extent in others if trust_names and extent.is_symbol]
        candidates = numbers or (named if len(named) == 1 else others)
        if not others:
            result.append(Dim.of(1))
        else:
            result.append(
                candidates[0] if len(candidates) == 1 else Dim.unknown(stretched=not trust_names)
            )
    return tuple(result)


def _elementwise(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    return (broadcast(*(known.shape(tensor) for tensor in node.inputs if tensor.name)),)


def _transpose(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape = known.shape(node.inputs[0])
    if shape is None:
        return (None,)
    perm = node.attrs.get("perm") or list(range(len(shape)))[::-1]
    return (tuple(shape[axis] for axis in perm),)


def _reshape(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape, target = known.shape(node.inputs[0]), known.content(node.inputs[1])
    if target is None:
        length = known.shape(node.inputs[1])
        if length and length[0].value is not None:
            return (tuple(Dim.unknown() for _ in range(length[0].value)),)
        return (None,)
    keeps_zero = not node.attrs.get("allowzero", 0)
    dims: list[Dim | None] = []
    for position, item in enumerate(target.items):
        if item == 0 and keeps_zero:
            dims.append(
                shape[position] if shape is not None and position < len(shape) else Dim.unknown()
            )
        elif item == -1:
            dims.append(None)
        else:
            dims.append(item if item.non_negative else Dim.unknown())
    if None in dims:
        known_part = product(tuple(dim for dim in dims if dim is not None))
        rest = product(shape).divide(known_part) if shape is not None else None
        dims[dims.index(None)] = rest or Dim.unknown()
    return (tuple(dim if dim is not None else Dim.unknown() for dim in dims),)


def _expand(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    target = known.content(node.inputs[1])
    if target is None:
        return (None,)
    return (broadcast(known.shape(node.inputs[0]), target.items, trust_names=False),)


def _axes(node: gs.Node, known: ShapeMap, position: int = 1) -> list[int] | None:
    if "axes" in node.attrs:
        return [int(axis) for axis in node.attrs["axes"]]
    if len(node.inputs) > position and node.inputs[position].name:
        value = constant_value(node.inputs[position])
        if value is not None:
            return [int(axis) for axis in value.reshape(-1)]
        content = known.content(node.inputs[position])
        if content is not None and all(item.value is not None for item in content.items):
            return [int(item.value or 0) for item in content.items]
        return None
    return []


def _unsqueeze(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape, axes = known.shape(node.inputs[0]), _axes(node, known)
    if shape is None or axes is None:
        return (None,)
    rank = len(shape) + len(axes)
    places = {axis % rank for axis in axes}
    rest = iter(shape)
    return (tuple(Dim.of(1) if axis in places else next(rest) for axis in range(rank)),)


def _squeeze(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape, axes = known.shape(node.inputs[0]), _axes(node, known)
    if shape is None or axes is None:
        return (None,)
    if not axes and any(dim.value is None for dim in shape):
        return (None,)  # which symbols are 1 is a matter of the run
    gone = {axis % len(shape) for axis in axes} or {
        axis for axis, dim in enumerate(shape) if dim == 1
    }
    return (tuple(dim for axis, dim in enumerate(shape) if axis not in gone),)


def _concat(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shapes = [known.shape(tensor) for tensor in node.inputs]
    first = shapes[0]
    if first is None or any(shape is None for shape in shapes):
        return (None,)
    axis = int(node.attrs["axis"]) % len(first)
    total = Dim.of(0)
    for shape in shapes:
        assert shape is not None
        total = total + shape[axis]
    return ((*first[:axis], total, *first[axis + 1 :]),)


def _matmul(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    return (_product(known.shape(node.inputs[0]), known.shape(node.inputs[1])),)


def _product(left: Shape | None, right: Shape | None) -> Shape | None:
    if left is None or right is None or len(left) < 2 or len(right) < 2:
        return None
    batch = broadcast(left[:-2], right[:-2]) if len(left) > 2 or len(right) > 2 else ()
    return None if batch is None else (*batch, left[-2], right[-1])


def _qlinear_matmul(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    return (_product(known.shape(node.inputs[0]), known.shape(node.inputs[3])),)


def _dynamic_quantize(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    return known.shape(node.inputs[0]), (), ()


def _gather(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    data, indices = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    if data is None or indices is None:
        return (None,)
    axis = int(node.attrs.get("axis", 0)) % len(data)
    return ((*data[:axis], *indices, *data[axis + 1 :]),)


def _gather_nd(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    data, indices = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    if data is None or indices is None or indices[-1].value is None:
        return (None,)
    batch = int(node.attrs.get("batch_dims", 0))  # both have these extents
    return ((*data[:batch], *indices[batch:-1], *data[batch + indices[-1].value :]),)


def _pad(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape, pads = known.shape(node.inputs[0]), known.content(node.inputs[1])
    if shape is None:
        return (None,)
    every = len(node.inputs) < 4 or not node.inputs[3].name  # not for some axes only
    if pads is None or not every or len(pads.items) != 2 * len(shape):
        return (tuple(Dim.unknown() for _ in shape),)
    both = zip(pads.items[: len(shape)], pads.items[len(shape) :], strict=True)
    dims = [dim + before + after for dim, (before, after) in zip(shape, both, strict=True)]
    return (tuple(dim if dim.non_negative else Dim.unknown() for dim in dims),)


def _gather_elements(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    return (known.shape(node.inputs[1]),)


def _slice(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape = known.shape(node.inputs[0])
    if shape is None or len(node.inputs) < 3:
        return (None,)
    starts, ends = (known.content(tensor) for tensor in node.inputs[1:3])
    axes = _axes(node, known, position=3)
    steps = known.content(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4].name else None
    if axes == []:
        axes = list(range(len(starts.items))) if starts is not None else None
    if axes is None:
        return (tuple(Dim.unknown() for _ in shape),)
    result = list(shape)
    for position, axis in enumerate(axes):
        step = Dim.of(1) if steps is None else steps.items[position]
        start = None if starts is None else starts.items[position]
        end = None if ends is None else ends.items[position]
        result[axis] = _sliced(shape[axis], start, end) if step == 1 else Dim.unknown()
    return (tuple(result),)


def _sliced(extent: Dim, start: Dim | None, end: Dim | None) -> Dim:
    if start is None or end is None:
        return Dim.unknown()
    if extent.value is not None and start.value is not None and end.value is not None:
        return Dim.of(len(range(extent.value)[start.value : end.value]))
    if end.value is not None and end.value >= np.iinfo(np.int32).max:
        end = extent
    taken = end - start
    inside = start.non_negative and (extent - end).non_negative and taken.non_negative
    return taken if inside else Dim.unknown()


def _split(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape = known.shape(node.inputs[0])
    if shape is None or "split" in node.attrs:
        return [None] * len(node.outputs)
    axis = int(node.attrs.get("axis", 0)) % len(shape)
    sizes = known.content(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1].name else None
    parts: list[Dim | None]
    if sizes is not None:
        parts = list(sizes.items)
    else:
        parts = [shape[axis].divide(Dim.of(len(node.outputs)))] * len(node.outputs)
    return [(*shape[:axis], part or Dim.unknown(), *shape[axis + 1 :]) for part in parts]


def _reduce(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape, axes = known.shape(node.inputs[0]), _axes(node, known)
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


def _tile(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape, counts = known.shape(node.inputs[0]), known.content(node.inputs[1])
    if shape is None or counts is None or len(counts.items) != len(shape):
        return (None,)
    return (tuple(dim * count for dim, count in zip(shape, counts.items, strict=True)),)


def _constant_of_shape(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    target = known.content(node.inputs[0])
    if target is None:
        return (None,)
    return (tuple(item if item.non_negative else Dim.unknown() for item in target.items),)


def _flatten(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    shape = known.shape(node.inputs[0])
    if shape is None:
        return (None,)
    axis = int(node.attrs.get("axis", 1))
    axis = axis + len(shape) if axis < 0 else axis
    return ((product(shape[:axis]), product(shape[axis:])),)


def _gemm(node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    left, right = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    if left is None or right is None or len(left) != 2 or len(right) != 2:
        return (None,)
    return ((left[int(node.attrs.get("transA", 0))], right[1 - int(node.attrs.get("transB", 0))]),)


def _spatial(rule: SpatialRule, node: gs.Node, known: ShapeMap) -> Sequence[Shape | None]:
    return rule(node, known.shapes, known.contents)


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

_RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(_SAME_SHAPE.split(), _same),
    **dict.fromkeys(_BROADCAST.split(), _elementwise),
    **dict.fromkeys(_REDUCE.split(), _reduce),
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Expand": _expand,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Concat": _concat,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _qlinear_matmul,
    "DynamicQuantizeLinear": _dynamic_quantize,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Pad": _pad,
    "Slice": _slice,
    "Split": _split,
    "Range": _range,
    "Tile": _tile,
    "ConstantOfShape": _constant_of_shape,
    "Flatten": _flatten,
    "Gemm": _gemm,
    **{op: partial(_spatial, rule) for op, rule in SPATIAL_RULES.items()},
    **dict.fromkeys(("ScatterND", "ScatterElements"), _same),
    "Attention": _attention,
}
