"""The editing graph: a shell ModelProto as linked nodes and tensors, and back, with nothing lost on the way.

onnx_graphsurgeon provides the linked nodes and tensors. Around it this module keeps what it would drop or damage:
metadata and doc strings, model-local functions, and the bodies of If, Loop and Scan. While a graph is being edited, the
outer values that such a body captures stand as extra inputs of the control-flow node, so that ordering and dead-code
removal see them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto
from onnx_graphsurgeon.logger import G_LOGGER

G_LOGGER.severity = G_LOGGER.ERROR

_GRAPH_ATTRIBUTES = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


@dataclass(slots=True)
class _Kept:
    """What a NodeProto holds beyond what the editing graph models."""

    doc_string: str = ""
    metadata: list[Any] = field(default_factory=list)
    bodies: list[AttributeProto] = field(default_factory=list)
    inputs: int | None = None  # number of real inputs; captured values follow


class Graph:
    """A model being edited. Node names are unique and stable; values are identified by name.

    Attributes:
        gs: The linked graph.
        functions: Model-local functions, untouched; passes may add to them.
    """

    def __init__(self, proto: ModelProto) -> None:
        """Imports a copy of ``proto``."""
        proto = _copy(proto)
        name_nodes(proto.graph)
        self._kept = {node.name: _detach(node) for node in proto.graph.node}
        self.functions = list(proto.functions)
        del proto.functions[:]
        self._header = ModelProto()
        self._header.CopyFrom(proto)
        self._header.ClearField("graph")
        self._graph_header = _graph_header(proto.graph)
        self._io = (list(proto.graph.input), list(proto.graph.output))
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
        name = stem
        while name in self._names:
            self._counter += 1
            name = f"{stem}_{self._counter}"
        self._names.add(name)
        return name

    def add(self, node: gs.Node) -> None:
        """Appends a node; `finish` puts it in order."""
        self.gs.nodes.append(node)

    def finish(self) -> ModelProto:
        """Removes dead nodes, orders the rest and returns the model as a new shell."""
        _drop_dead(self.gs)
        _sort(self.gs)
        proto: ModelProto = gs.export_onnx(self.gs, do_type_check=False)
        result = ModelProto()
        result.CopyFrom(self._header)
        result.graph.CopyFrom(proto.graph)
        _restore_graph_header(result.graph, self._graph_header)
        for target, kept in zip((result.graph.input, result.graph.output), self._io, strict=True):
            by_name = {value.name: value for value in kept}
            values = [by_name.get(value.name, value) for value in target]
            del target[:]
            target.extend(values)
        for node in result.graph.node:
            _attach(node, self._kept.get(node.name))
        result.functions.extend(self.functions)
        _import_domains(result)
        return result


def name_nodes(graph: GraphProto) -> None:
    """Gives every node of the main graph a unique name, keeping those that already have one."""
    taken = {node.name for node in graph.node if node.name}
    seen: set[str] = set()
    for node in graph.node:
        if node.name and node.name not in seen:
            seen.add(node.name)
            continue
        stem = node.name or f"{node.op_type}_{next(filter(None, node.output), 'node')}"
        name, count = stem, 0
        while name in taken:
            count += 1
            name = f"{stem}_{count}"
        node.name = name
        taken.add(name)
        seen.add(name)


def is_op(node: gs.Node | None, *op_types: str) -> bool:
    """True if the node is one of these operators of the standard domain."""
    return node is not None and node.op in op_types and not node.domain


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """The node that computes a value; None for inputs and initializers."""
    return tensor.inputs[0] if tensor.inputs else None


def captured_names(node: NodeProto) -> Iterator[str]:
    """Yields the outer values that the bodies of a control-flow node read."""
    for attribute in node.attribute:
        bodies = [attribute.g] if attribute.type == AttributeProto.GRAPH else list(attribute.graphs)
        for body in bodies:
            yield from _free_names(body)


def _free_names(graph: GraphProto) -> list[str]:
    local = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    free: dict[str, None] = {}
    for node in graph.node:
        for name in (*node.input, *captured_names(node)):
            if name and name not in local:
                free[name] = None
        local.update(node.output)
    for value in graph.output:
        if value.name not in local:
            free[value.name] = None
    return list(free)


def _copy(proto: ModelProto) -> ModelProto:
    result = ModelProto()
    result.CopyFrom(proto)
    return result


def _detach(node: NodeProto) -> _Kept:
    kept = _Kept(node.doc_string, list(node.metadata_props))
    bodies = [attribute for attribute in node.attribute if attribute.type in _GRAPH_ATTRIBUTES]
    if bodies:
        kept.inputs = len(node.input)
        node.input.extend(dict.fromkeys(captured_names(node)))
        kept.bodies = bodies
        others = [attribute for attribute in node.attribute if attribute.type not in _GRAPH_ATTRIBUTES]
        del node.attribute[:]
        node.attribute.extend(others)
    return kept


def _attach(node: NodeProto, kept: _Kept | None) -> None:
    if kept is None:
        return
    if kept.doc_string:  # an empty one would still be written
        node.doc_string = kept.doc_string
    node.metadata_props.extend(kept.metadata)
    node.attribute.extend(kept.bodies)
    if kept.inputs is not None:
        del node.input[kept.inputs :]


def _graph_header(graph: GraphProto) -> GraphProto:
    header = GraphProto(name=graph.name, doc_string=graph.doc_string)
    header.metadata_props.extend(graph.metadata_props)
    header.quantization_annotation.extend(graph.quantization_annotation)
    return header


def _restore_graph_header(graph: GraphProto, header: GraphProto) -> None:
    graph.name, graph.doc_string = header.name, header.doc_string
    graph.metadata_props.extend(header.metadata_props)
    graph.quantization_annotation.extend(header.quantization_annotation)


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
            stack.append((node, True))
            sources = [source for tensor in node.inputs for source in tensor.inputs]
            stack.extend((source, False) for source in reversed(sources) if id(source) not in done)
    graph.nodes[:] = ordered
