"""Where attention may be: a look at operator names that misses nothing and decides nothing.

It saves taking out every body and inlining every function; the matcher alone says what attention is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from onnx import FunctionProto, ModelProto, NodeProto

from qfa_passes.core import opspec
from qfa_passes.core.walk import subgraphs

FunctionKey = tuple[str, str, str]

_PRODUCTS = frozenset(("MatMul", "Gemm", "Einsum"))


def function_key(thing: FunctionProto | NodeProto) -> FunctionKey:
    """Domain, name and overload: what ties a call to its function."""
    name = thing.name if isinstance(thing, FunctionProto) else thing.op_type
    domain = "" if thing.domain == "ai.onnx" else thing.domain
    return domain, name, thing.overload


def every_node(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Yields nodes and those of the bodies inside them."""
    pending = list(nodes)
    while pending:
        node = pending.pop()
        yield node
        for body in subgraphs(node):
            pending.extend(body.node)


def called_functions(proto: ModelProto) -> set[FunctionKey]:
    """Keys of the model-local functions that the main graph calls, directly or through other functions."""
    functions = {function_key(entry): entry for entry in proto.functions}
    called: set[FunctionKey] = set()
    pending = [proto.graph.node]
    while pending:
        for node in every_node(pending.pop()):
            key = function_key(node)
            if key in functions and key not in called:
                called.add(key)
                pending.append(functions[key].node)
    return called


@dataclass(slots=True)
class AttentionHints:
    """Which functions of a model may hold attention.

    Attributes:
        functions: The functions by key.
    """

    functions: Mapping[FunctionKey, FunctionProto]
    _holders: dict[FunctionKey, bool] = field(default_factory=dict)
    _products: dict[FunctionKey, bool] = field(default_factory=dict)

    @staticmethod
    def of(functions: Iterable[FunctionProto]) -> AttentionHints:
        """Looks at a model's functions; the body of our own operator is none of them."""
        return AttentionHints(
            {function_key(entry): entry for entry in functions if entry.domain != opspec.DOMAIN}
        )

    def holds(self, nodes: Iterable[NodeProto]) -> bool:
        """True if nodes, bodies inside them or functions that they call may hold attention."""
        return any(_is_anchor(node) or self.calls_holder(node) for node in every_node(nodes))

    def holds_directly(self, nodes: Iterable[NodeProto]) -> bool:
        """True if the nodes may be the parts of attention, not only call functions that hold all of one."""
        return any(
            _is_anchor(node) or (self.calls_holder(node) and not self._has_product(node))
            for node in nodes
        )

    def calls_holder(self, node: NodeProto) -> bool:
        """True if a node calls a function that may hold attention."""
        key = function_key(node)
        function = self.functions.get(key)
        if function is None:
            return False
        if key not in self._holders:
            self._holders[key] = False  # a function that calls itself is refused on loading
            self._holders[key] = self.holds(function.node)
        return self._holders[key]

    def _has_product(self, call: NodeProto) -> bool:
        """True if a called function holds a matrix product, so that it may be attention by itself."""
        key = function_key(call)
        if key not in self._products:
            self._products[key] = any(
                node.op_type in _PRODUCTS
                or "Attention" in node.op_type
                or (function_key(node) in self.functions and self._has_product(node))
                for node in every_node(self.functions[key].node)
            )
        return self._products[key]


def _is_anchor(node: NodeProto) -> bool:
    if node.domain == opspec.DOMAIN:
        return False
    return node.op_type in ("Softmax", "Exp") or "Attention" in node.op_type
