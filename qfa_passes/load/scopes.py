"""Checks names and order in graphs and function bodies: every value is computed once, and before it is used."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from onnx import FunctionProto, GraphProto, NodeProto

from qfa_passes.core.printable import printable
from qfa_passes.core.walk import subgraphs
from qfa_passes.errors import InvalidModelError, LimitExceededError
from qfa_passes.load.limits import Limits


@dataclass(slots=True)
class _Scope:
    """A graph or function body in the middle of its check.

    Attributes:
        label: What it is, for messages.
        nodes: Its nodes.
        outputs: Names that must be defined at its end.
        domains: Operator domains with an opset import.
        parent: The scope whose values are visible too.
        defined: Names with a value so far.
        position: Index of the next node.
        children: Subgraphs of the current node that wait for their check.
    """

    label: str
    nodes: Sequence[NodeProto]
    outputs: list[str]
    domains: Collection[str]
    parent: "_Scope | None" = None
    defined: set[str] = field(default_factory=set)
    position: int = 0
    children: list[GraphProto] = field(default_factory=list)

    def define(self, name: str) -> None:
        """Records a value.

        Raises:
            InvalidModelError: It exists already, or its name is no text.
        """
        if type(name) is not str:
            raise _no_text(name, self.label)
        if name in self.defined:
            raise InvalidModelError(
                f"value '{printable(name)}' is defined twice in {self.label}",
                why="every value of a graph is computed exactly once",
                hint="export the model again, or rename one of the two",
            )
        self.defined.add(name)

    def knows(self, name: str) -> bool:
        """True if a value is visible here."""
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.defined:
                return True
            scope = scope.parent
        return False


def check_graph(graph: GraphProto, domains: Collection[str], limits: Limits, budget: int) -> int:
    """Checks the main graph with all its subgraphs.

    Args:
        graph: The main graph.
        domains: Operator domains that the model imports.
        limits: ``depth`` bounds the nesting.
        budget: Nodes that may still be visited.

    Returns:
        What is left of ``budget``.

    Raises:
        InvalidModelError: A name is undefined, used too early, defined twice or no text.
        LimitExceededError: Nested too deep, or too many nodes.
    """
    return _check(_graph_scope(graph, domains, None), limits, budget)


def check_function(
    function: FunctionProto, domains: Collection[str], limits: Limits, budget: int
) -> int:
    """Checks the body of a model-local function like ``check_graph``."""
    label = f"function '{printable(function.domain)}::{printable(function.name)}'"
    scope = _Scope(label, function.node, list(function.output), domains)
    for name in function.input:
        scope.define(name)
    return _check(scope, limits, budget)


def _check(root: _Scope, limits: Limits, budget: int) -> int:
    """Walks nodes in order with an explicit stack; recursion would end with the interpreter's limit."""
    budget = _spend(root, budget, limits)
    stack = [root]
    while stack:
        scope = stack[-1]
        if scope.children:
            if len(stack) >= limits.depth:
                raise LimitExceededError(
                    f"subgraphs are nested deeper than {limits.depth} levels in {root.label}",
                    hint="no exporter writes this; do not trust the file",
                )
            stack.append(_graph_scope(scope.children.pop(), scope.domains, scope))
            budget = _spend(stack[-1], budget, limits)
            continue
        if scope.position:
            for name in scope.nodes[scope.position - 1].output:
                if name:
                    scope.define(name)
        if scope.position < len(scope.nodes):
            node = scope.nodes[scope.position]
            scope.position += 1
            _check_node(scope, node)
            scope.children = list(subgraphs(node))
            continue
        for name in scope.outputs:
            if type(name) is not str or not scope.knows(name):
                raise InvalidModelError(
                    f"output '{printable(name)}' of {scope.label} is computed by no node",
                    hint="the model is incomplete; export it again",
                )
        stack.pop()
    return budget


def _check_node(scope: _Scope, node: NodeProto) -> None:
    """Checks operator, domain and inputs of the next node of a scope."""
    if not node.op_type or type(node.op_type) is not str or type(node.name) is not str:
        raise _no_text(node.op_type or node.name or "", f"a node of {scope.label}")
    domain = "" if node.domain == "ai.onnx" else node.domain
    if domain not in scope.domains:
        raise InvalidModelError(
            f"{_shown(node)} in {scope.label} uses the domain '{printable(domain)}'",
            why="the model has no opset import for it, so its operators have no meaning",
            hint=f"add it: model.opset_import.add(domain={printable(domain)!r}, version=...)",
        )
    for name in node.input:
        if name and not scope.knows(name):
            raise _missing(scope, node, name)


def _graph_scope(graph: GraphProto, domains: Collection[str], parent: _Scope | None) -> _Scope:
    """Starts a scope with the inputs and initializers of a graph."""
    label = (
        f"graph '{printable(graph.name)}'"
        if parent is None
        else f"subgraph '{printable(graph.name)}'"
    )
    outputs = [value.name for value in graph.output]
    scope = _Scope(label, graph.node, outputs, domains, parent)
    for tensor in graph.initializer:
        scope.define(tensor.name)
    for sparse in graph.sparse_initializer:
        scope.define(sparse.values.name)
    initializers = frozenset(scope.defined)
    seen: set[str] = set()
    for value in graph.input:
        # An input of the same name gives an initializer's value a default; it is one value, not two.
        if value.name in initializers and value.name not in seen:
            seen.add(value.name)
        else:
            scope.define(value.name)
    return scope


def _spend(scope: _Scope, budget: int, limits: Limits) -> int:
    """Counts the nodes of a scope before they are visited."""
    budget -= len(scope.nodes)
    if budget < 0:
        raise LimitExceededError(
            f"the model has more than {limits.nodes:,} nodes",
            why=f"the limit was crossed in {scope.label}",
            hint="if the model really is this large, raise Limits.nodes",
        )
    return budget


def _missing(scope: _Scope, node: NodeProto, name: str) -> InvalidModelError:
    """The error for an input without a value: never computed, computed later, or part of a cycle."""
    if type(name) is not str:
        return _no_text(name, f"{_shown(node)} in {scope.label}")
    what = f"{_shown(node)} in {scope.label} reads '{printable(name)}'"
    level: _Scope | None = scope
    while level is not None:
        later = next((n for n in level.nodes[level.position - 1 :] if name in n.output), None)
        if later is not None:
            cycle = find_cycle(level.nodes)
            if cycle:
                return InvalidModelError(
                    f"{what}, and the nodes of {level.label} form a cycle",
                    why=" -> ".join(_shown(member) for member in cycle[:8]),
                    hint="export the model again; loops are written with Loop or Scan",
                )
            return InvalidModelError(
                f"{what} before {_shown(later)} computes it",
                why="nodes must be in the order of computation",
                hint="sort the nodes: onnx_graphsurgeon's Graph.toposort() does it",
            )
        level = level.parent
    return InvalidModelError(
        f"{what}, which nothing computes", hint="the model is incomplete; export it again"
    )


def find_cycle(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """Returns the nodes of one cycle in order, the first repeated at the end; empty if there is none."""
    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    uses = [sorted({producer[n] for n in _reads(node) if n in producer}) for node in nodes]
    state = [0] * len(nodes)  # 0 unseen, 1 on the path, 2 done
    for start in range(len(nodes)):
        if state[start]:
            continue
        path, pending = [start], [iter(uses[start])]
        state[start] = 1
        while path:
            following = next(pending[-1], None)
            if following is None:
                state[path.pop()] = 2
                pending.pop()
            elif state[following] == 1:
                # ``path`` runs from reader to producer; data flows the other way.
                members = [*path[path.index(following) :], following]
                return [nodes[index] for index in reversed(members)]
            elif state[following] == 0:
                state[following] = 1
                path.append(following)
                pending.append(iter(uses[following]))
    return []


def _reads(node: NodeProto) -> Iterator[str]:
    """Yields every name that a node or its subgraphs read."""
    yield from node.input
    pending = list(subgraphs(node))
    while pending:
        for inner in pending.pop().node:
            yield from inner.input
            pending.extend(subgraphs(inner))


def _shown(node: NodeProto) -> str:
    """Names a node for a message."""
    name = node.name or (node.output[0] if node.output else "")
    return f"node '{printable(name)}' ({printable(node.op_type, 40)})"


def _no_text(name: object, where: str) -> InvalidModelError:
    """The error for a name that is empty where it must not be, or not UTF-8."""
    shown = printable(name) if isinstance(name, (str, bytes)) else repr(name)
    return InvalidModelError(
        f"'{shown}' in {where} is no valid name",
        why="names are UTF-8 text, and an operator's name is not empty",
        hint="the file is damaged; get it again",
    )
