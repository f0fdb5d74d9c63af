"""Calls of model-local functions that hold attention become the nodes of the function."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, helper

from qfa_passes.graph.attention_hints import AttentionHints, every_node, function_key
from qfa_passes.graph.ir import name_nodes
from qfa_passes.graph.rename import defined_names, rename_in_nodes


@dataclass(slots=True)
class Inlined:
    """A model without the calls that hold attention.

    Attributes:
        proto: The model.
        calls: Names of the calls that are gone, outer ones before those inside them; the nodes of a call are named
            ``call/...``, and no other node is.
        refused: Why a call had to stay, by its name.
    """

    proto: ModelProto
    calls: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def inline_attention(proto: ModelProto, keep: Collection[str] = ()) -> Inlined:
    """Inlines every call in the main graph whose function holds attention, with all that such a function calls.

    Before: ``o = mine.Attend(q, k, v)``. After: ``s = MatMul(q, k)``, ``p = Softmax(s)``, ``o = MatMul(p, v)``, named
    after the call. Functions that hold no attention, and bodies of If, Loop and Scan, stay as they are.

    Args:
        proto: The model; not changed.
        keep: Names of calls that must stay.
    """
    hints = AttentionHints.of(proto.functions)
    if not any(hints.calls_holder(node) for node in proto.graph.node):
        return Inlined(proto)
    result = ModelProto()
    result.CopyFrom(proto)
    name_nodes(result.graph)
    work = _Inliner(result, hints, frozenset(keep))
    everything = hints.holds_directly(result.graph.node)
    nodes = work.expand(result.graph.node, everything=everything)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return work.inlined


class _Inliner:
    """One inlining; knows all names of the main graph."""

    def __init__(self, proto: ModelProto, hints: AttentionHints, keep: frozenset[str]) -> None:
        self.inlined = Inlined(proto)
        self._proto, self._hints, self._keep = proto, hints, keep
        self._values = set(defined_names(proto.graph))
        self._names = {node.name for node in every_node(proto.graph.node)}
        self._folders = {
            name[:end] for name in self._names for end, mark in enumerate(name) if mark == "/"
        }

    def expand(self, nodes: Iterable[NodeProto], *, everything: bool) -> list[NodeProto]:
        """Returns nodes with calls replaced; ``everything``: also calls of functions without attention."""
        found: list[NodeProto] = []
        for node in nodes:
            function = self._hints.functions.get(function_key(node))
            wanted = function is not None and (everything or self._hints.calls_holder(node))
            if function is None or not wanted:
                found.append(node)
                continue
            name = self._folder(node.name)
            reason = "" if name in self._keep else self._conflict(function)
            if name in self._keep or reason:
                if reason:
                    self.inlined.refused[node.name] = reason
                found.append(node)
                continue
            if self._hints.calls_holder(node):
                self.inlined.calls.append(name)
            self._import_like(function)
            inner = self._instance(function, node, name)
            inside = everything or self._hints.holds_directly(function.node)
            found.extend(self.expand(inner, everything=inside))
        return found

    def _folder(self, call: str) -> str:
        """The call's name, changed where nodes outside the call are named as if they were inside."""
        name = call
        while name in self._folders:
            name += "_call"
        return name

    def _conflict(self, function: FunctionProto) -> str:
        """Why a function's nodes would mean something else in the main graph; empty if they would not."""
        ours = {_plain(entry.domain): entry.version for entry in self._proto.opset_import}
        theirs = {_plain(entry.domain): entry.version for entry in function.opset_import}
        for node in every_node(function.node):
            domain = _plain(node.domain)
            version, wanted = ours.get(domain), theirs.get(domain)
            if wanted is None or version == wanted or function_key(node) in self._hints.functions:
                continue
            if version is not None and not _same_operator(node, version, wanted):
                return (
                    f"the function {function.domain}::{function.name} uses {node.op_type} of opset {wanted}, "
                    f"the model that of {version}"
                )
        return ""

    def _import_like(self, function: FunctionProto) -> None:
        known = {_plain(entry.domain) for entry in self._proto.opset_import}
        for entry in function.opset_import:
            if _plain(entry.domain) not in known:
                self._proto.opset_import.add().CopyFrom(entry)

    def _instance(self, function: FunctionProto, call: NodeProto, name: str) -> list[NodeProto]:
        """The nodes of one call."""
        values: dict[str, str] = {}
        for position, formal in enumerate(function.input):
            values[formal] = call.input[position] if position < len(call.input) else ""
        copies: list[NodeProto] = []
        for position, formal in enumerate(function.output):
            actual = call.output[position] if position < len(call.output) else ""
            if formal not in values:
                values[formal] = actual or self._new_value(f"{name}/{formal}")
            elif actual:  # the function hands an input on, or a value twice
                label = self._new_name(f"{name}/{formal}")
                copies.append(helper.make_node("Identity", [values[formal]], [actual], name=label))
        body = GraphProto(node=function.node)
        for inner in defined_names(body):
            if inner not in values:
                values[inner] = self._new_value(f"{name}/{inner}")
        given = {attribute.name: attribute for attribute in function.attribute_proto}
        given |= {attribute.name: attribute for attribute in call.attribute}
        nodes = list(body.node)
        rename_in_nodes(nodes, values)
        for node in nodes:
            node.name = self._new_name(f"{name}/{node.name or node.op_type}")
        for node in every_node(nodes):
            _fill_references(node, given)
        return nodes + copies

    def _new_value(self, stem: str) -> str:
        return _unused(stem, self._values)

    def _new_name(self, stem: str) -> str:
        return _unused(stem, self._names)


def _unused(stem: str, taken: set[str]) -> str:
    name, number = stem, 0
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    taken.add(name)
    return name


def _fill_references(node: NodeProto, given: dict[str, AttributeProto]) -> None:
    """Gives a node the attributes of the call that it refers to; one that the call leaves out goes away."""
    attributes = []
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            attributes.append(attribute)
        elif attribute.ref_attr_name in given:
            actual = AttributeProto()
            actual.CopyFrom(given[attribute.ref_attr_name])
            actual.name = attribute.name
            attributes.append(actual)
    if len(attributes) != len(node.attribute) or any(item.ref_attr_name for item in node.attribute):
        kept = [_copy(item) for item in attributes]
        del node.attribute[:]
        node.attribute.extend(kept)


def _copy(attribute: AttributeProto) -> AttributeProto:
    result = AttributeProto()
    result.CopyFrom(attribute)
    return result


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _same_operator(node: NodeProto, version: int, wanted: int) -> bool:
    """True if an operator is the same in two versions of its domain."""
    try:
        found = [
            onnx.defs.get_schema(node.op_type, number, _plain(node.domain)).since_version
            for number in (version, wanted)
        ]
    except onnx.defs.SchemaError:
        return False
    return found[0] == found[1]
