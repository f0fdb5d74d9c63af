"""A body is a model: the graph that an If, Loop or Scan node carries, taken out as a model of its own and put back.

Taken out, the outer values that a body reads by name become inputs, and outer constants become initializers. Their
bytes are not copied: the initializers of a shell refer to places in the WeightStore. Put back, everything that the
outer graph defines goes away again, so that a weight that several bodies share stays one weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
)

from qfa_passes.graph.dims import Dim
from qfa_passes.graph.ir import Graph
from qfa_passes.graph.preserved import free_names
from qfa_passes.graph.rename import defined_names, own_names, rename_values
from qfa_passes.graph.shape_inference import infer_shapes
from qfa_passes.graph.shapes import ShapeMap

_OLDEST_IR: Final = 8
"""Of bodies taken out; the first version with model-local functions."""

_CONSTANTS_ARE_NO_INPUTS: Final = 4
"""The first IR version whose initializers need not be inputs too."""

_OUTSIDE: Final = "outside: "
"""Starts the names of extents that only the outer graph can tell; they do not outlive the body's time outside."""


@dataclass(frozen=True, slots=True)
class BodyPlace:
    """Where a body is.

    Attributes:
        node: Name of the node that carries it, unique in its graph.
        attribute: Name of the attribute.
        index: Number within the attribute, if that is a list of graphs.
    """

    node: str
    attribute: str
    index: int | None = None

    def __str__(self) -> str:
        """Such as ``If_3/then_branch``."""
        number = "" if self.index is None else f"[{self.index}]"
        return f"{self.node}/{self.attribute}{number}"


@dataclass(frozen=True, slots=True)
class TakenOut:
    """A body as a model.

    Attributes:
        proto: The model; its inputs are the formal inputs of the body and then the captured values.
        formal: Names of the formal inputs, in order.
        captured: Names of the outer values that are inputs of the model.
        constants: Names of the outer constants that are initializers of the model.
    """

    proto: ModelProto
    formal: tuple[str, ...]
    captured: tuple[str, ...]
    constants: tuple[str, ...]


def bodies_of(graph: GraphProto) -> Iterator[tuple[BodyPlace, NodeProto, GraphProto]]:
    """Yields every body of a graph's nodes with its node; not the bodies inside bodies."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield BodyPlace(node.name, attribute.name), node, attribute.g
            for index, body in enumerate(attribute.graphs):
                yield BodyPlace(node.name, attribute.name, index), node, body


def body_at(graph: GraphProto, place: BodyPlace) -> GraphProto:
    """The body at a place, to be read or changed.

    Raises:
        LookupError: The node is gone.
    """
    for node in graph.node:
        if node.name == place.node:
            return _body_of(node, place)
    raise LookupError(f"no body at {place}")


def _body_of(node: NodeProto, place: BodyPlace) -> GraphProto:
    attribute = next(item for item in node.attribute if item.name == place.attribute)
    return attribute.g if place.index is None else attribute.graphs[place.index]


class OuterScope:
    """A model whose bodies are taken out; knows the type of every value that they may capture."""

    def __init__(self, proto: ModelProto) -> None:
        """Takes a typed model with named nodes; it is read, not changed."""
        self._proto = proto
        graph = proto.graph
        defaults = (
            {value.name for value in graph.input}
            if proto.ir_version >= _CONSTANTS_ARE_NO_INPUTS
            else set()
        )
        self._constants: dict[str, TensorProto] = {
            tensor.name: tensor for tensor in graph.initializer if tensor.name not in defaults
        }
        self._types: dict[str, TypeProto] = {
            value.name: value.type for value in (*graph.input, *graph.output, *graph.value_info)
        }
        self._nodes = {node.name: node for node in graph.node}
        self._shapes: ShapeMap | None = None

    def has(self, place: BodyPlace) -> bool:
        """True if the node that carries a body is there."""
        return place.node in self._nodes

    def take_out(self, place: BodyPlace) -> TakenOut:
        """Makes a model of a body."""
        node = self._nodes[place.node]
        body = _body_of(node, place)
        proto = ModelProto(ir_version=max(self._proto.ir_version, _OLDEST_IR))
        proto.opset_import.extend(self._proto.opset_import)
        proto.functions.extend(self._proto.functions)
        proto.graph.CopyFrom(body)
        proto.graph.name = proto.graph.name or str(place)
        formal = tuple(value.name for value in body.input)
        self._complete(proto.graph, node)
        names = free_names(body)
        captured = tuple(name for name in names if name not in self._constants)
        constants = tuple(name for name in names if name in self._constants)
        proto.graph.input.extend(self._value(name) for name in captured)
        proto.graph.initializer.extend(self._constants[name] for name in constants)
        return TakenOut(proto, formal, captured, constants)

    def _value(self, name: str) -> ValueInfoProto:
        """A captured value with its type, every extent named so that equal extents stay equal."""
        value = ValueInfoProto(name=name)
        if name in self._types:
            value.type.CopyFrom(self._types[name])
        if value.type.WhichOneof("value") not in (None, "tensor_type"):
            return value
        if self._shapes is None:
            self._shapes = infer_shapes(Graph(self._proto))
        shape = self._shapes.shapes.get(name)
        if shape is not None and value.type.tensor_type.elem_type:
            del value.type.tensor_type.shape.dim[:]
            value.type.tensor_type.shape.SetInParent()
            for extent in shape:
                _write_extent(value.type.tensor_type, extent)
        return value

    def _complete(self, graph: GraphProto, node: NodeProto) -> None:
        """Adds the types that formal inputs do not state, as far as the node's operator tells them."""
        for position, value in enumerate(graph.input):
            if value.type.WhichOneof("value") not in (None, "tensor_type"):
                continue
            kind = value.type.tensor_type
            if node.op_type == "Loop" and position < 2:
                kind.elem_type = kind.elem_type or (TensorProto.INT64, TensorProto.BOOL)[position]
            elif node.op_type in ("Loop", "Scan") and position < len(node.input):
                # Shapes are left open: what a loop carries may change its shape from turn to turn.
                outer = self._types.get(node.input[position])
                constant = self._constants.get(node.input[position])
                known = 0 if outer is None else outer.tensor_type.elem_type
                known = constant.data_type if constant is not None else known
                kind.elem_type = kind.elem_type or known


def put_back(outer: ModelProto, place: BodyPlace, taken: TakenOut, changed: ModelProto) -> None:
    """Puts a body that was taken out and changed back into its place, in place.

    New values whose names the outer graph uses for something else get other names.

    Args:
        outer: The model that the body came from. It may have changed since, but still defines what the body captures.
        place: Where the body was.
        taken: What was taken out.
        changed: What became of ``taken.proto``.
    """
    target = body_at(outer.graph, place)
    body = GraphProto()
    body.CopyFrom(changed.graph)
    outside = {*taken.captured, *taken.constants}
    for field in ("initializer", "value_info"):
        own = [item for item in getattr(body, field) if item.name not in outside]
        body.ClearField(field)
        getattr(body, field).extend(own)
    for field in ("input", "output"):
        body.ClearField(field)
        getattr(body, field).extend(getattr(target, field))
    for field in ("name", "doc_string"):
        body.ClearField(field)
        if target.HasField(field):
            setattr(body, field, getattr(target, field))
    _forget_outside(body)
    # Names that the body had already may be those of outer values: mergers call the results of If and branch alike.
    _make_unique(body, set(own_names(outer.graph)).difference(defined_names(target)))
    target.CopyFrom(body)
    if body.initializer:
        outer.ir_version = max(outer.ir_version, _CONSTANTS_ARE_NO_INPUTS)
    known = {entry.domain for entry in outer.opset_import}
    outer.opset_import.extend(entry for entry in changed.opset_import if entry.domain not in known)


def _make_unique(body: GraphProto, visible: set[str]) -> None:
    defined = set(defined_names(body))
    names: dict[str, str] = {}
    for name in sorted(defined & visible):
        number = 1
        while f"{name}_{number}" in visible or f"{name}_{number}" in defined:
            number += 1
        names[name] = f"{name}_{number}"
        defined.add(names[name])
    if names:
        rename_values(body, names)


def _write_extent(kind: TypeProto.Tensor, extent: Dim) -> None:
    dim = kind.shape.dim.add()
    if extent.value is not None and extent.value >= 0:
        dim.dim_value = extent.value
    elif extent.is_symbol:
        dim.dim_param = repr(extent)
    else:
        dim.dim_param = _OUTSIDE + repr(extent)


def _forget_outside(body: GraphProto) -> None:
    for value in body.value_info:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param.startswith(_OUTSIDE):
                dim.ClearField("dim_param")
