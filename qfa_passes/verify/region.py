"""The part of a model that a site replaces, cut out at the values that the site reads.

What else the part reads is either a constant, or follows from extents alone (the arithmetic of shapes), or becomes one
more input: a replacement that does not read it must then give the same numbers whatever it holds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from typing import Final

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from qfa_passes.core.model import LoadedModel
from qfa_passes.core.weights import WeightStore, is_hollow
from qfa_passes.graph.ir import Graph
from qfa_passes.graph.preserved import captured_names
from qfa_passes.graph.shape_inference import infer_shapes
from qfa_passes.graph.shapes import ShapeMap

_MOST_NODES: Final = 1000
_MOST_BYTES: Final = 1 << 26


class OpenRegionError(Exception):
    """The part of the model above a site is not bounded by the values that the site names."""


@dataclass(frozen=True, slots=True)
class Source:
    """A model, indexed once for all its sites.

    Attributes:
        model: The model, typed.
        shapes: Symbolic shapes and contents.
        places: Position of the node that computes a value.
        constants: Initializers that no caller can replace, by name.
        types: ONNX element types by value name, as far as they are known.
    """

    model: LoadedModel
    shapes: ShapeMap
    places: Mapping[str, int]
    constants: Mapping[str, TensorProto]
    types: Mapping[str, int]

    @staticmethod
    def of(model: LoadedModel) -> Source:
        """Indexes the main graph of a model."""
        graph = model.proto.graph
        inputs = {value.name for value in graph.input}
        values = (*graph.value_info, *graph.output, *graph.input)
        types = {value.name: value.type.tensor_type.elem_type for value in values}
        types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        return Source(
            model,
            infer_shapes(Graph(model.proto)),
            {name: place for place, node in enumerate(graph.node) for name in node.output if name},
            {tensor.name: tensor for tensor in graph.initializer if tensor.name not in inputs},
            {name: kind for name, kind in types.items() if kind},
        )


@dataclass(frozen=True, slots=True)
class Region:
    """What computes some values from others.

    Attributes:
        nodes: In graph order.
        inputs: Values of the cut that are read.
        others: Values beside the cut that are read and are not known.
        shaped: Small integer values whose content follows from extents.
        constants: Initializers.
        outputs: What the region computes.
    """

    nodes: tuple[NodeProto, ...]
    inputs: tuple[str, ...]
    others: tuple[str, ...]
    shaped: tuple[str, ...]
    constants: tuple[TensorProto, ...]
    outputs: tuple[str, ...]


def extract(source: Source, outputs: Collection[str], cut: Collection[str]) -> Region:
    """Walks up from the outputs and stops at the cut.

    Raises:
        OpenRegionError: The walk leaves the neighbourhood of the block.
    """
    graph = source.model.proto.graph
    places: set[int] = set()
    inputs: dict[str, None] = {}
    others: dict[str, None] = {}
    shaped: dict[str, None] = {}
    constants: dict[str, TensorProto] = {}
    seen: set[str] = set()
    stack = list(outputs)[::-1]
    while stack:
        name = stack.pop()
        if not name or name in seen:
            continue
        seen.add(name)
        place = source.places.get(name)
        if name in cut and name not in outputs:
            inputs[name] = None
        elif name in source.constants:
            constants[name] = source.constants[name]
        elif place is None:
            others[name] = None
        elif name in source.shapes.contents and graph.node[place].op_type != "Constant":
            shaped[name] = None
        else:
            places.add(place)
            stack.extend(reversed([*graph.node[place].input, *captured_names(graph.node[place])]))
            if len(places) > _MOST_NODES or _bytes(constants) > _MOST_BYTES:
                raise OpenRegionError(
                    f"more than {_MOST_NODES} nodes or {_MOST_BYTES >> 20} MiB of constants lie"
                    f" between '{next(iter(outputs))}' and the values that the block reads"
                )
    return Region(
        tuple(graph.node[place] for place in sorted(places)),
        tuple(inputs),
        tuple(others),
        tuple(shaped),
        tuple(constants.values()),
        tuple(outputs),
    )


def _bytes(constants: Mapping[str, TensorProto]) -> int:
    return sum(prod(tensor.dims) for tensor in constants.values())


def region_model(source: Source, region: Region, inputs: Mapping[str, list[int]]) -> ModelProto:
    """The region as a model of its own, whose constants hold their bytes.

    Args:
        source: The model that it was cut from.
        region: What to write.
        inputs: Extents of every input of the result, by name: those of the region, and the shaped values.
    """
    origin = source.model.proto
    proto = ModelProto(ir_version=origin.ir_version)
    proto.opset_import.extend(origin.opset_import)
    proto.functions.extend(origin.functions)
    proto.graph.name = "region"
    proto.graph.node.extend(region.nodes)
    for tensor in region.constants:
        _add_whole(proto.graph, tensor, source.model.weights)
    for name, extents in inputs.items():
        value = proto.graph.input.add(name=name)
        value.type.tensor_type.elem_type = source.types.get(name, TensorProto.INT64)
        value.type.tensor_type.shape.SetInParent()
        for extent in extents:
            value.type.tensor_type.shape.dim.add(dim_value=extent)
    for name in region.outputs:
        value = proto.graph.output.add(name=name)
        if name in source.types:
            value.type.tensor_type.elem_type = source.types[name]
    return proto


def _add_whole(graph: GraphProto, tensor: TensorProto, weights: WeightStore) -> None:
    graph.initializer.append(tensor)
    if is_hollow(tensor):
        whole = graph.initializer[-1]
        whole.ClearField("external_data")
        whole.ClearField("data_location")
        whole.raw_data = bytes(weights.view(tensor))
