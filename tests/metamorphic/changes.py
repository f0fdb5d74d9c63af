"""Changes of a model that change nothing about what it computes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from qfa_passes.core.walk import subgraphs
from qfa_passes.graph.preserved import captured_names

_COMMUTE: Final = ("Add", "Mul", "And", "Or", "Xor", "Equal", "Max", "Min", "Sum")
_FLOATS: Final = (TensorProto.FLOAT, TensorProto.FLOAT16)
_PLAIN: Final = (*_FLOATS, TensorProto.BOOL, TensorProto.INT64)


def renamed(model: ModelProto) -> ModelProto:
    """All values and nodes get other names, those of inputs and outputs excepted."""
    names: dict[str, str] = {}
    _rename(model.graph, names)
    return model


def _rename(graph: GraphProto, outer: Mapping[str, str]) -> None:
    fixed = {value.name for value in (*graph.input, *graph.output)}
    inner = {name: name for name in fixed}
    made = [name for node in graph.node for name in node.output if name]
    for name in (*made, *(tensor.name for tensor in graph.initializer)):
        inner.setdefault(name, f"%{len(outer)}.{len(inner)}%")
    names = {**outer, **inner}
    for number, node in enumerate(graph.node):
        node.name = f"node/{len(outer)}/{number}"
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for body in subgraphs(node):
            _rename(body, names)
    for named in (*graph.initializer, *graph.value_info):
        named.name = names.get(named.name, named.name)


def shuffled(model: ModelProto) -> ModelProto:
    """Another topological order."""
    graph, order = model.graph, random.Random(1)
    known = {value.name for value in (*graph.input, *graph.initializer)} | {""}
    waiting = {
        number: (set(node.input) | set(captured_names(node))) - known
        for number, node in enumerate(graph.node)
    }
    readers: dict[str, list[int]] = {}
    for number, names in waiting.items():
        for name in names:
            readers.setdefault(name, []).append(number)
    ready = [number for number, names in waiting.items() if not names]
    nodes = []
    while ready:
        node = graph.node[ready.pop(order.randrange(len(ready)))]
        nodes.append(node)
        for name in node.output:
            for number in readers.get(name, ()):
                waiting[number].discard(name)
                if not waiting[number]:
                    ready.append(number)
    assert len(nodes) == len(graph.node)
    _replace_nodes(graph, nodes)
    return model


def commuted(model: ModelProto) -> ModelProto:
    """Operands of commutative operators change places."""
    for graph in _graphs(model.graph):
        for node in graph.node:
            if node.op_type in _COMMUTE and not node.domain:
                node.input[:] = list(node.input)[::-1]
    return model


def with_constant_nodes(model: ModelProto) -> ModelProto:
    """Initializers become Constant nodes."""
    for graph in _graphs(model.graph):
        nodes = [
            helper.make_node("Constant", [], [tensor.name], name=f"c/{tensor.name}", value=tensor)
            for tensor in graph.initializer
        ]
        _replace_nodes(graph, [*nodes, *graph.node])
        del graph.initializer[:]
    return model


def with_initializers(model: ModelProto) -> ModelProto:
    """Constant nodes become initializers."""
    for graph in _graphs(model.graph):
        kept = []
        for node in graph.node:
            value = node.attribute[0] if node.op_type == "Constant" else None
            if value is None or value.name != "value":
                kept.append(node)
                continue
            tensor = graph.initializer.add()
            tensor.CopyFrom(value.t)
            tensor.name = node.output[0]
        _replace_nodes(graph, kept)
    return model


def with_scalar_constants(model: ModelProto) -> ModelProto:
    """Rank-0 initializers become Constant nodes with a plain number."""
    kept = []
    for tensor in list(model.graph.initializer):
        value = numpy_helper.to_array(tensor)
        if value.ndim or value.dtype not in ("float32", "int64"):
            kept.append(tensor)
            continue
        kind = (
            {"value_float": float(value)} if value.dtype.kind == "f" else {"value_int": int(value)}
        )
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], **kind))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def with_detours(model: ModelProto) -> ModelProto:
    """Every computed value of a plain type passes Identity nodes, and floats a cast to the type that they have."""
    graph = model.graph
    typed = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in (*typed.value_info, *typed.output, *typed.input)
    }
    nodes: list[NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        for place, name in enumerate(node.output):
            kind = kinds.get(name, TensorProto.UNDEFINED)
            if not name or kind not in _PLAIN:
                continue
            steps = ["Identity", "Cast", "Identity"] if kind in _FLOATS else ["Identity"]
            values = [f"{name}/{number}" for number in range(len(steps))] + [name]
            node.output[place] = values[0]
            for step, source, target in zip(steps, values, values[1:], strict=False):
                attributes = {"to": kind} if step == "Cast" else {}
                nodes.append(
                    helper.make_node(step, [source], [target], name=f"{target}/d", **attributes)
                )
    _replace_nodes(graph, nodes)
    return model


def with_dead_code(model: ModelProto) -> ModelProto:
    """Nodes whose results nobody uses, one behind each softmax."""
    for node in list(model.graph.node):
        if node.op_type in ("Softmax", "MatMul"):
            unused = f"unused/{node.output[0]}"
            model.graph.node.append(helper.make_node("Relu", [node.output[0]], [unused]))
    return model


def everything_at_once(model: ModelProto) -> ModelProto:
    """Many of the changes, one after the other."""
    for change in (
        with_initializers,
        with_detours,
        commuted,
        with_constant_nodes,
        renamed,
        shuffled,
    ):
        model = change(model)
    return model


CHANGES: Final[dict[str, Callable[[ModelProto], ModelProto]]] = {
    change.__name__: change
    for change in (
        renamed,
        shuffled,
        commuted,
        with_constant_nodes,
        with_initializers,
        with_scalar_constants,
        with_detours,
        with_dead_code,
        everything_at_once,
    )
}


def _graphs(graph: GraphProto) -> Iterable[GraphProto]:
    yield graph
    for node in graph.node:
        for body in subgraphs(node):
            yield from _graphs(body)


def _replace_nodes(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    copies = []
    for node in nodes:
        copies.append(NodeProto())
        copies[-1].CopyFrom(node)
    del graph.node[:]
    graph.node.extend(copies)
