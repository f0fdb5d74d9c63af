"""Checks the parts of a model against each other: versions, graphs, functions. Linear in its size."""

from collections.abc import Iterable

import onnx
from onnx import FunctionProto, ModelProto, NodeProto, OperatorSetIdProto

from qfa_passes.core.printable import printable
from qfa_passes.core.walk import subgraphs
from qfa_passes.errors import InvalidModelError, LimitExceededError, UnsupportedModelError
from qfa_passes.load.limits import Limits
from qfa_passes.load.scopes import check_function, check_graph

OLDEST_IR: int = 3
"""Older files (2017) keep no operator-set versions."""

_Key = tuple[str, str, str]


def check_structure(model: ModelProto, limits: Limits) -> None:
    """Checks everything about a model except its tensors. Domains and operators that are unknown here are kept.

    Raises:
        InvalidModelError: The model contradicts itself.
        UnsupportedModelError: It is newer or older than this installation understands.
        LimitExceededError: Too many nodes, or nested too deep.
    """
    _check_ir_version(model)
    domains = _imports(model.opset_import, "the model")
    if not model.graph.output:
        raise InvalidModelError(
            f"graph '{printable(model.graph.name)}' has no outputs",
            why="a model without outputs computes nothing",
            hint="the file is damaged or was cut out of a larger model; export it again",
        )
    budget = check_graph(model.graph, domains, limits, limits.nodes)
    functions: dict[_Key, FunctionProto] = {}
    for function in model.functions:
        key = (function.domain, function.name, function.overload)
        if key in functions:
            raise InvalidModelError(
                f"function {_shown(key)} is defined twice", hint="remove one of the definitions"
            )
        functions[key] = function
        imported = _imports(function.opset_import, f"function {_shown(key)}")
        budget = check_function(function, {**domains, **imported}, limits, budget)
    if functions:
        _check_calls(model, functions, limits)


def _check_ir_version(model: ModelProto) -> None:
    """Refuses files whose format this installation does not know."""
    version = model.ir_version
    if version <= 0:
        raise InvalidModelError(
            "the model states no IR version", why=f"ir_version is {version}", hint="export it again"
        )
    if version < OLDEST_IR:
        raise UnsupportedModelError(
            f"the model has IR version {version} (2017)",
            why=f"the oldest supported is {OLDEST_IR}",
            hint="export it again with a current exporter",
        )
    if version > onnx.IR_VERSION:
        raise UnsupportedModelError(
            f"the model has IR version {version}",
            why=f"the installed onnx {onnx.__version__} knows up to {onnx.IR_VERSION}",
            hint="pip install --upgrade onnx, or export for an older version",
        )


def _imports(entries: Iterable[OperatorSetIdProto], where: str) -> dict[str, int]:
    """Returns domain -> version, with '' for ai.onnx."""
    imports: dict[str, int] = {}
    for entry in entries:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if imports.setdefault(domain, entry.version) != entry.version:
            raise InvalidModelError(
                f"{where} imports the domain '{printable(domain)}' in two versions "
                f"({imports[domain]} and {entry.version})",
                hint="keep one of them",
            )
        if entry.version < 1:
            raise InvalidModelError(
                f"{where} imports version {entry.version} of the domain '{printable(domain)}'",
                hint="versions start at 1; export the model again",
            )
    newest = onnx.defs.onnx_opset_version()
    if imports.get("", 1) > newest:
        raise UnsupportedModelError(
            f"{where} uses opset {imports['']}",
            why=f"the installed onnx {onnx.__version__} knows up to {newest}",
            hint="pip install --upgrade onnx, or export with a lower opset",
        )
    return imports


def _check_calls(model: ModelProto, functions: dict[_Key, FunctionProto], limits: Limits) -> None:
    """Refuses functions that call each other in a circle, too deep, or into an explosion when expanded."""
    calls = {key: _calls(function.node, functions) for key, function in functions.items()}
    sizes: dict[_Key, int] = {}
    depths: dict[_Key, int] = {}
    for start in functions:
        path: list[_Key] = []
        on_path: set[_Key] = set()
        pending: list[tuple[_Key, bool]] = [(start, False)]
        while pending:
            key, leaving = pending.pop()
            if leaving:
                path.pop()
                on_path.discard(key)
                sizes[key] = len(functions[key].node) + sum(sizes[callee] for callee in calls[key])
                depths[key] = 1 + max((depths[callee] for callee in calls[key]), default=0)
                _check_expansion(key, sizes[key], depths[key], limits)
            elif key in on_path:
                circle = " -> ".join(
                    _shown(member) for member in [*path[path.index(key) :], key][:8]
                )
                raise InvalidModelError(
                    f"function {_shown(key)} calls itself",
                    why=circle,
                    hint="no exporter writes this; do not trust the file",
                )
            elif key not in sizes:
                path.append(key)
                on_path.add(key)
                pending.append((key, True))
                pending.extend((callee, False) for callee in dict.fromkeys(calls[key]))
    total = sum(sizes[key] for key in _calls(model.graph.node, functions))
    if total > limits.nodes:
        _check_expansion(next(iter(functions)), total, 0, limits)


def _check_expansion(key: _Key, size: int, depth: int, limits: Limits) -> None:
    """Compares one function with the limits."""
    if depth > limits.depth:
        raise LimitExceededError(
            f"function {_shown(key)} calls functions that call functions, {depth} levels deep",
            why=f"at most {limits.depth} are allowed",
            hint="no exporter writes this; do not trust the file",
        )
    if size > limits.nodes:
        raise LimitExceededError(
            f"expanding the calls of function {_shown(key)} gives more than {limits.nodes:,} nodes",
            why="each function multiplies the size of the functions that it calls",
            hint="no exporter writes this; do not trust the file",
        )


def _calls(nodes: Iterable[NodeProto], functions: dict[_Key, FunctionProto]) -> list[_Key]:
    """Returns the local functions that nodes call, once per call, subgraphs included."""
    found: list[_Key] = []
    pending: list[Iterable[NodeProto]] = [nodes]
    while pending:
        for node in pending.pop():
            key = (node.domain, node.op_type, node.overload)
            if key in functions:
                found.append(key)
            pending.extend(graph.node for graph in subgraphs(node))
    return found


def _shown(key: _Key) -> str:
    """Names a function for a message."""
    domain, name, overload = key
    return (
        f"'{printable(domain)}::{printable(name)}{':' + printable(overload) if overload else ''}'"
    )
