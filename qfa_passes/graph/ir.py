"""The editing graph: a shell ModelProto as linked nodes and tensors, and back, with nothing lost on the way.

onnx_graphsurgeon provides the linked nodes and tensors. Around it this module keeps what it would drop or damage:
metadata, doc strings, overloads, model-local functions, attributes and value types that it does not know, inputs that
have a default value, and the bodies of If, Loop and Scan. While a graph is being edited, the outer values that such a
body captures stand as extra inputs of the control-flow node, so that ordering and dead-code removal see them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeGuard

import onnx
import onnx_graphsurgeon as gs
from onnx import GraphProto, ModelProto, NodeProto, helper
from onnx_graphsurgeon.logger import G_LOGGER

from qfa_passes.errors import InvalidModelError
from qfa_passes.graph.preserved import (
    attach,
    copies,
    detach,
    graph_header,
    names_inside,
    restore_graph_header,
    restore_values,
    simplify_types,
    take_defaults,
)

G_LOGGER.severity = G_LOGGER.ERROR

Extent = int | str | None

_MADE_UP: Final = ("unk__", "?")
"""Names of extents begin so if shape inference gave them."""


class Graph:
    """A model being edited. Node names are unique and stable; values are identified by name.

    Imported nodes can be rewired and removed; their operator and attributes stay what they were.

    Attributes:
        gs: The linked graph.
        functions: Model-local functions, untouched; passes may add to them.
    """

    def __init__(self, proto: ModelProto) -> None:
        """Imports a copy of ``proto``."""
        proto = _copy(proto)
        name_nodes(proto.graph)
        self._kept = {node.name: detach(node) for node in proto.graph.node}
        self.functions = list(proto.functions)
        del proto.functions[:]
        self._header = ModelProto()
        self._header.CopyFrom(proto)
        self._header.ClearField("graph")
        self._graph_header = graph_header(proto.graph)
        self._io = (copies(proto.graph.input), copies(proto.graph.output))
        self._values = {value.name: value for value in copies(proto.graph.value_info)}
        self._defaults = take_defaults(proto)
        simplify_types(proto.graph)
        self.gs: gs.Graph = gs.import_onnx(proto)
        self._names: set[str] | None = None  # collected when the first new name is asked for
        self._counter = 0

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return int(self.gs.opset)

    @property
    def nodes(self) -> list[gs.Node]:
        """Nodes in order."""
        return list(self.gs.nodes)

    def tensors(self) -> dict[str, gs.Tensor]:
        """All values by name."""
        return dict(self.gs.tensors())

    def node_index(self) -> dict[str, gs.Node]:
        """All nodes by name."""
        return {node.name: node for node in self.gs.nodes}

    def new_name(self, stem: str) -> str:
        """Returns an unused name for a node or value that starts with ``stem``."""
        if self._names is None:
            self._names = set(self.gs.tensors()) | {node.name for node in self.gs.nodes}
            for kept in self._kept.values():
                self._names.update(names_inside(kept.proto))
        name = stem
        while name in self._names:
            self._counter += 1
            name = f"{stem}_{self._counter}"
        self._names.add(name)
        return name

    def add(self, node: gs.Node) -> None:
        """Appends a node; `sort` puts it in order."""
        self.gs.nodes.append(node)

    def imported(self) -> Iterator[NodeProto]:
        """Yields the imported nodes that are still there, as they were, without their inputs and outputs."""
        present = {node.name for node in self.gs.nodes}
        yield from (kept.proto for name, kept in self._kept.items() if name in present)

    def learn(self, tensor: gs.Tensor, same: gs.Tensor) -> None:
        """Takes over what is declared of a value that holds the same numbers and is about to go."""
        if isinstance(tensor, gs.Constant) or not tensor.inputs or same.shape is None:
            return
        tensor.dtype = tensor.dtype or same.dtype
        shape: tuple[Extent, ...] | None
        shape = tuple(same.shape) if tensor.shape is None else _joined(tensor.shape, same.shape)
        if shape is None or (tensor.shape is not None and shape == tuple(tensor.shape)):
            return
        tensor.shape = shape
        known = self._values.get(tensor.name)
        if known is not None:
            kind = known.type.tensor_type.elem_type
            self._values[tensor.name] = helper.make_tensor_value_info(tensor.name, kind, shape)

    def is_captured(self, tensor: gs.Tensor) -> bool:
        """True if the body of a control-flow node reads the value by its name."""
        for consumer in tensor.outputs:
            kept = self._kept.get(consumer.name)
            captured = [] if kept is None or kept.inputs is None else consumer.inputs[kept.inputs :]
            if any(value is tensor for value in captured):
                return True
        return False

    def sort(self) -> None:
        """Puts nodes into an order in which each follows what it reads."""
        _sort(self.gs)

    def drop_dead(self) -> None:
        """Removes nodes whose results nobody needs: they are no readers of what they read any more."""
        _drop_dead(self.gs)

    def finish(self) -> ModelProto:
        """Removes dead nodes, orders the rest and returns the model as a new shell."""
        _drop_dead(self.gs)
        _sort(self.gs)
        proto: ModelProto = gs.export_onnx(self.gs, do_type_check=False)
        result = ModelProto()
        result.CopyFrom(self._header)
        result.graph.CopyFrom(proto.graph)
        restore_graph_header(result.graph, self._graph_header)
        restore_values(result.graph, self._io, self._values, self._defaults)
        for node in result.graph.node:
            attach(node, self._kept.get(node.name))
        result.functions.extend(self.functions)
        _import_domains(result)
        return result


def name_nodes(graph: GraphProto) -> None:
    """Gives every node of the main graph a unique name, keeping those that already have one."""
    taken = {node.name for node in graph.node if node.name}
    seen: set[str] = set()
    counts: dict[str, int] = {}
    for node in graph.node:
        if node.name and node.name not in seen:
            seen.add(node.name)
            continue
        stem = node.name or f"{node.op_type}_{next(filter(None, node.output), 'node')}"
        name = stem
        while name in taken:
            counts[stem] = counts.get(stem, 0) + 1
            name = f"{stem}_{counts[stem]}"
        node.name = name
        taken.add(name)
        seen.add(name)


def is_op(node: gs.Node | None, *op_types: str) -> TypeGuard[gs.Node]:
    """True if the node is one of these operators of the standard domain."""
    return node is not None and node.op in op_types and not node.domain


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """The node that computes a value; None for inputs and initializers."""
    return tensor.inputs[0] if tensor.inputs else None


def _joined(first: Sequence[Extent], second: Sequence[Extent]) -> tuple[Extent, ...] | None:
    """The better told of two declared shapes, axis by axis; None if their ranks differ."""
    if len(first) != len(second):
        return None
    return tuple(max(pair, key=_told) for pair in zip(first, second, strict=True))


def _told(extent: Extent) -> int:
    """2 for a number, 1 for a name that the model gave, 0 for one that inference made up."""
    if isinstance(extent, int):
        return 2
    return int(isinstance(extent, str) and bool(extent) and not extent.startswith(_MADE_UP))


def _copy(proto: ModelProto) -> ModelProto:
    result = ModelProto()
    result.CopyFrom(proto)
    return result


def _import_domains(proto: ModelProto) -> None:
    known = {entry.domain for entry in proto.opset_import}
    used = {node.domain for node in proto.graph.node}
    for domain in sorted(used - known - {""}):
        proto.opset_import.append(onnx.helper.make_opsetid(domain, 1))


def _live(nodes: Iterable[gs.Node], outputs: Iterable[gs.Tensor]) -> set[int]:
    live: set[int] = set()
    stack = [node for tensor in outputs for node in tensor.inputs]
    while stack:
        node = stack.pop()
        if id(node) not in live:
            live.add(id(node))
            stack.extend(source for tensor in node.inputs for source in tensor.inputs)
    return live


def _drop_dead(graph: gs.Graph) -> None:
    live = _live(graph.nodes, graph.outputs)
    for node in graph.nodes:
        if id(node) not in live:
            node.inputs.clear()
            node.outputs.clear()
    graph.nodes[:] = [node for node in graph.nodes if id(node) in live]


def _sort(graph: gs.Graph) -> None:
    """Orders nodes topologically, staying as close to the given order as possible (depth first, no recursion)."""
    done: set[int] = set()
    opened: set[int] = set()
    ordered: list[gs.Node] = []
    for root in graph.nodes:
        stack = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if id(node) in done:
                continue
            if ready:
                done.add(id(node))
                ordered.append(node)
                continue
            if id(node) in opened:
                raise InvalidModelError(f"node '{node.name}' needs its own result")
            opened.add(id(node))
            stack.append((node, True))
            sources = [source for tensor in node.inputs for source in tensor.inputs]
            stack.extend((source, False) for source in reversed(sources) if id(source) not in done)
    graph.nodes[:] = ordered
