"""A model opened up: its main graph and every body that may hold attention, each a normalized model of its own.

All stages then treat a body like a model. `rebuild` puts what became of the bodies back, inner ones first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from onnx import FunctionProto, ModelProto, NodeProto

from qfa_passes.core.model import LoadedModel
from qfa_passes.core.site import AttentionSite, Refusal
from qfa_passes.graph.attention_hints import AttentionHints, called_functions, function_key
from qfa_passes.graph.graph_pass import run_passes
from qfa_passes.graph.ir import Graph
from qfa_passes.graph.scopes import BodyPlace, OuterScope, TakenOut, bodies_of, put_back
from qfa_passes.graph.typed import typed
from qfa_passes.match import find_sites
from qfa_passes.normalize import normalize_passes, raise_opset
from qfa_passes.normalize.inline_functions import inline_attention
from qfa_passes.origins import origins_of, written_out

Found = AttentionSite | Refusal

_ROUNDS: Final = 4
"""Normalization is done again while it makes shapes known, at most so many times."""


@dataclass(frozen=True, slots=True)
class Body:
    """Where a scope was taken out.

    Attributes:
        outer: Prefix of the scope around it.
        place: Where it is there.
        node: The If, Loop or Scan node that carries it.
        taken: What was taken out.
    """

    outer: str
    place: BodyPlace
    node: NodeProto
    taken: TakenOut


@dataclass(frozen=True, slots=True)
class Scope:
    """One graph of a model.

    Attributes:
        prefix: Starts the names of its sites: empty for the main graph, else such as ``If_3/then_branch/``.
        model: The graph as a normalized model.
        calls: Prefixes of nodes that stand for an inlined function call, outer calls first.
        stuck: Calls that hold attention and could not be inlined.
        body: Where it was taken out; None for the main graph.
        found: Its attention, names with the prefix; empty before `match_scopes`.
    """

    prefix: str
    model: LoadedModel
    calls: tuple[str, ...] = ()
    stuck: tuple[Refusal, ...] = ()
    body: Body | None = None
    found: tuple[Found, ...] = ()

    @property
    def sites(self) -> list[AttentionSite]:
        """What was matched."""
        return [entry for entry in self.found if isinstance(entry, AttentionSite)]


def normalize(
    model: LoadedModel, keep: Collection[str] = (), passes: int | None = None
) -> LoadedModel:
    """The main graph in canonical float form, with types and shapes.

    Args:
        model: The model.
        keep: Names of function calls and operators that stay as they are.
        passes: How many passes run; None for all.
    """
    raised = model.replace_proto(raise_opset(model.proto))
    return _normalized(raised, "", keep, passes).model


def open_model(model: LoadedModel, keep: Collection[str] = ()) -> list[Scope]:
    """Normalizes a model and takes its bodies out; a scope comes before those inside it.

    Args:
        model: The model.
        keep: Names of function calls and operators, with the prefix of their scope, that stay as they are.
    """
    raised = model.replace_proto(raise_opset(model.proto))
    return open_bodies(_normalized(raised, "", keep), keep)


def open_bodies(main: Scope, keep: Collection[str] = ()) -> list[Scope]:
    """Takes all bodies that may hold attention out of a normalized scope, and those inside them."""
    scopes, pending = [], [main]
    while pending:
        scope = pending.pop(0)
        scopes.append(scope)
        pending.extend(_bodies(scope, keep))
    return scopes


def _bodies(scope: Scope, keep: Collection[str]) -> list[Scope]:
    proto = scope.model.proto
    hints = AttentionHints.of(proto.functions)
    places = [
        (place, node) for place, node, body in bodies_of(proto.graph) if hints.holds(body.node)
    ]
    if not places:
        return []
    outer = OuterScope(proto)
    found = []
    for place, node in places:
        taken = outer.take_out(place)
        model = scope.model.replace_proto(taken.proto)
        inner = _normalized(model, f"{scope.prefix}{place}/", keep)
        carrier = NodeProto()
        carrier.CopyFrom(node)
        found.append(replace(inner, body=Body(scope.prefix, place, carrier, taken)))
    return found


def _normalized(
    model: LoadedModel, prefix: str, keep: Collection[str], passes: int | None = None
) -> Scope:
    kept = frozenset(name[len(prefix) :] for name in keep if name.startswith(prefix))
    inlined = inline_attention(model.proto, kept)
    normal = typed(inlined.proto)
    for _ in range(_ROUNDS):
        before, graph = normal, Graph(normal)
        run_passes(graph, normalize_passes(kept)[:passes])
        normal = typed(graph.finish())
        if passes is not None or not _learnt(before, normal):
            break
    stuck = tuple(
        Refusal(prefix + call, reason, "export the model with one opset, or without functions")
        for call, reason in inlined.refused.items()
    )
    calls = tuple(f"{prefix}{call}/" for call in inlined.calls)
    return Scope(prefix, model.replace_proto(normal), calls, stuck)


def _learnt(before: ModelProto, after: ModelProto) -> bool:
    """True if an extent of a value became a number: what passes could not fold before, they may fold now."""
    known = {value.name: value.type.tensor_type.shape.dim for value in before.graph.value_info}
    for value in after.graph.value_info:
        dims, earlier = value.type.tensor_type.shape.dim, known.get(value.name)
        if earlier is None or len(earlier) != len(dims):
            continue
        if any(
            new.HasField("dim_value") and not old.HasField("dim_value")
            for new, old in zip(dims, earlier, strict=True)
        ):
            return True
    return False


def match(model: LoadedModel) -> list[Found]:
    """The attention of a normalized model, also in its bodies."""
    scopes = match_scopes(open_bodies(Scope("", model)))
    return [entry for scope in scopes for entry in scope.found]


def find_attention(model: LoadedModel) -> list[Found]:
    """The attention of a model as it was loaded, wherever it is."""
    return [entry for scope in match_scopes(open_model(model)) for entry in scope.found]


def match_scopes(scopes: Sequence[Scope], keep: Collection[str] = ()) -> list[Scope]:
    """Finds the attention of every scope; what was kept on purpose is no finding."""
    result = []
    for scope in scopes:
        found = (*matched(Graph(scope.model.proto), scope.prefix), *scope.stuck)
        left = tuple(entry for entry in found if name_of(entry) not in keep)
        result.append(replace(scope, found=left))
    return result


def matched(graph: Graph, prefix: str) -> list[Found]:
    """The attention of one graph, its bodies aside; names start with the prefix."""
    return [
        replace(entry, name=prefix + entry.name)
        if isinstance(entry, AttentionSite)
        else replace(entry, where=prefix + entry.where)
        for entry in find_sites(graph)
    ]


def idle_origins(
    scopes: Sequence[Scope], used: Collection[str], kept: Collection[str] = ()
) -> set[str]:
    """Calls and operators of the source that were written out for nothing: no site in them is used.

    Args:
        scopes: The matched scopes.
        used: Names of the sites that are fused, or may be.
        kept: What was not written out; nodes that look so all the same are the source's own.
    """
    idle: set[str] = set()
    for scope in scopes:
        graph = scope.model.proto.graph
        idle |= written_out(scope.prefix, graph)
        for site in scope.sites:
            if site.name in used:
                idle -= origins_of(site, scope.prefix, graph)
    for call in (call for scope in scopes for call in scope.calls):
        inside = any(call.startswith(f"{outer}/") for outer in idle)
        if not inside and not any(name.startswith(call) for name in used):
            idle.add(call.removesuffix("/"))
    return idle.difference(kept)


def found_in(scopes: Sequence[Scope], origins: Collection[str]) -> list[Found]:
    """What was found in calls and operators of the source that were written out."""
    calls = tuple(f"{origin}/" for origin in origins)
    found = []
    for scope in scopes:
        for entry in scope.found:
            own = origins_of(entry, scope.prefix, scope.model.proto.graph)
            if name_of(entry).startswith(calls) or own & set(origins):
                found.append(entry)
    return found


def name_of(entry: Found) -> str:
    """Label of a site, or of the anchor of a refusal."""
    return entry.name if isinstance(entry, AttentionSite) else entry.where


def rebuild(
    scopes: Sequence[Scope], change: Callable[[Scope, LoadedModel], LoadedModel | None]
) -> LoadedModel:
    """Changes every scope and puts the bodies back, inner ones first.

    Args:
        scopes: All scopes of a model.
        change: Takes a scope and its model, with changed bodies in it; returns the changed model, or None if there is
            nothing to change. A body in which nothing is changed stays as it was in the source.
    """
    results: dict[str, LoadedModel] = {}
    for scope in reversed(scopes):
        model = _with_bodies(scope, scopes, results)
        changed = change(scope, model)
        if changed is not None or model is not scope.model or scope.body is None:
            results[scope.prefix] = changed or model
    return results[""]


def _with_bodies(
    scope: Scope, scopes: Sequence[Scope], results: Mapping[str, LoadedModel]
) -> LoadedModel:
    """The scope's model with the bodies in it that changed; without what only the old bodies read."""
    changed = [
        (entry.body, results[entry.prefix])
        for entry in scopes
        if entry.body is not None and entry.body.outer == scope.prefix and entry.prefix in results
    ]
    if not changed:
        return scope.model
    proto = ModelProto()
    proto.CopyFrom(scope.model.proto)
    for body, result in changed:
        put_back(proto, body.place, body.taken, result.proto)
    return scope.model.replace_proto(typed(Graph(proto).finish()))


def reopened(result: LoadedModel, scopes: Sequence[Scope]) -> Iterator[tuple[Scope, LoadedModel]]:
    """Yields every scope that is still there with what it has become in a result, outer ones first."""
    models = {"": result}
    outer: dict[str, OuterScope] = {}
    for scope in scopes:
        if scope.body is not None:
            around = scope.body.outer
            if around not in models:
                continue
            if around not in outer:
                outer[around] = OuterScope(models[around].proto)
            if not outer[around].has(scope.body.place):
                continue  # what it computed is read no more
            proto = outer[around].take_out(scope.body.place).proto
            models[scope.prefix] = result.replace_proto(proto)
        yield scope, models[scope.prefix]


def drop_idle_functions(proto: ModelProto, source: ModelProto) -> None:
    """Removes the functions that the source called and the model does not call any more, in place."""
    idle = called_functions(source) - called_functions(proto)
    kept = [function for function in proto.functions if function_key(function) not in idle]
    if len(kept) < len(proto.functions):
        functions = [FunctionProto.FromString(entry.SerializeToString()) for entry in kept]
        del proto.functions[:]
        proto.functions.extend(functions)
