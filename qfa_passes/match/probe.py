"""Evaluating the few nodes that make a mask, at several lengths, without running the model.

Everything that reads only the *shape* of a value is cut off and replaced by the symbolic shape under the probe's
lengths; what remains is integer and boolean arithmetic on ranges. A mask that reads an input is not probed at all: no
number of tries would tell what it does for other inputs. For the others `mask_bound` tells whether lengths as
small as the probes' show everything that longer ones would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, product
from math import prod
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator

from qfa_passes.graph.constants import constant_value
from qfa_passes.graph.dims import Dim
from qfa_passes.graph.ir import Graph, producer
from qfa_passes.graph.shapes import Shape, ShapeMap
from qfa_passes.match.mask_bound import mask_bound, symbols_of

_MOST_NODES: Final = 400
_MOST_ELEMENTS: Final = 1 << 22
_LARGEST_BOUND: Final = 10
"""Sum of the numbers in all comparisons of a mask; the plain triangle has 2."""

# Every pair of lengths is tried up to a number above that sum, and some far longer ones.
_EVERY: Final = {0: 1, 1: 24, 2: 13}
_FAR: Final = (80, 97)

_UNREPEATABLE: Final = frozenset(
    (
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Bernoulli",
        "Multinomial",
        "Dropout",
    )
)


@dataclass(frozen=True, slots=True)
class Probe:
    """The value of a mask in a run with S queries and T keys."""

    value: npt.NDArray[np.generic]
    queries: int
    keys: int


@dataclass(frozen=True, slots=True)
class Cone:
    """The nodes that compute a value, cut at constants and at values whose content follows from lengths (shaped)."""

    nodes: list[gs.Node]
    shaped: list[gs.Tensor]
    constants: list[gs.Tensor]


def probe_mask(
    graph: Graph, shapes: ShapeMap, tensor: gs.Tensor, queries: Dim, keys: Dim
) -> list[Probe] | None:
    """Evaluates ``tensor`` in so many runs that they stand for all runs; None if that cannot be had."""
    cone = _cone(graph, shapes, tensor)
    if cone is None:
        return None
    outputs = [shapes.shape(output) for node in cone.nodes for output in node.outputs]
    lengths = symbols_of((queries, keys))
    if lengths is None or any(shape is None for shape in outputs):
        return None
    others = symbols_of(
        [
            *(dim for shape in outputs for dim in shape or ()),
            *(dim for value in cone.shaped for dim in _items(shapes, value)),
        ]
    )
    if others is None or len(lengths) not in _EVERY:
        return None
    if lengths | others:
        bound = mask_bound(cone.nodes, cone.constants, cone.shaped, shapes, lengths)
        if bound is None or bound > _LARGEST_BOUND:
            return None
    probes = []
    evaluator = _evaluator(graph, cone, tensor)
    for numbers in _assignments(sorted(lengths), sorted(others - lengths)):
        sizes = queries.at(numbers), keys.at(numbers)
        if prod(sizes) > _MOST_ELEMENTS or any(
            _elements(shape, numbers) > _MOST_ELEMENTS for shape in outputs
        ):
            return None
        try:
            value = np.asarray(next(iter(evaluator.run(None, _feeds(cone, shapes, numbers)))))
        except Exception:  # the reference evaluator raises whatever numpy raises
            return None
        probes.append(Probe(value, *sizes))
    return probes


def _cone(graph: Graph, shapes: ShapeMap, tensor: gs.Tensor) -> Cone | None:
    members: set[int] = set()
    cone = Cone([], [], [])
    seen: set[str] = set()
    stack = [tensor]
    while stack:
        value = stack.pop()
        if value.name in seen or not value.name:
            continue
        seen.add(value.name)
        if isinstance(value, gs.Constant):
            if constant_value(value) is None:
                return None
            cone.constants.append(value)
            continue
        if shapes.content(value) is not None and value is not tensor:
            cone.shaped.append(value)
            continue
        node = producer(value)
        if node is None or node.domain or node.op in _UNREPEATABLE or len(members) > _MOST_NODES:
            return None
        members.add(id(node))
        stack.extend(node.inputs)
    cone.nodes.extend(node for node in graph.gs.nodes if id(node) in members)
    return cone if cone.nodes else None


def _items(shapes: ShapeMap, value: gs.Tensor) -> tuple[Dim, ...]:
    content = shapes.content(value)
    return () if content is None else content.items


def _assignments(lengths: list[str], others: list[str]) -> Iterator[dict[str, int]]:
    """Yields numbers for the symbols: all short lengths, and combinations with long ones."""
    short = range(1, 1 + _EVERY[len(lengths)])
    far = product((3, *_FAR), repeat=len(lengths)) if lengths else ()
    for sizes in chain(product(short, repeat=len(lengths)), far):
        yield {**dict.fromkeys(others, 2), **dict(zip(lengths, sizes, strict=True))}
    # Other symbols, such as the batch, are in shapes only; mask_bound sees to it.
    yield {**dict.fromkeys(others, 5), **dict.fromkeys(lengths, 3)}


def _elements(shape: Shape | None, numbers: dict[str, int]) -> int:
    return prod(dim.at(numbers) for dim in shape or ())


def _feeds(
    cone: Cone, shapes: ShapeMap, numbers: dict[str, int]
) -> dict[str, npt.NDArray[np.generic]]:
    feeds: dict[str, npt.NDArray[np.generic]] = {}
    for value in cone.shaped:
        content = shapes.content(value)
        assert content is not None
        items = np.array([dim.at(numbers) for dim in content.items], dtype=np.int64)
        dtype = np.int64 if value.dtype is None else value.dtype
        feeds[value.name] = (items.reshape(()) if content.scalar else items).astype(dtype)
    return feeds


def _evaluator(graph: Graph, cone: Cone, tensor: gs.Tensor) -> ReferenceEvaluator:
    cut = gs.Graph(nodes=cone.nodes, inputs=cone.shaped, outputs=[tensor], opset=graph.opset)
    proto = gs.export_onnx(cut, do_type_check=False)
    del proto.graph.value_info[:]
    return ReferenceEvaluator(proto)
