"""Inputs to run the bodies of If, Loop and Scan on: what reaches them while the model around them runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from qfa_passes.calibrate import capture
from qfa_passes.calibrate.body_turns import TURNS, BodyTurns
from qfa_passes.core.dataset import DataSet, Feed
from qfa_passes.core.model import LoadedModel
from qfa_passes.errors import QfaError
from qfa_passes.opened import Body, Scope
from qfa_passes.runtime.session import create_session

Array = npt.NDArray[Any]

MOST_RUNS: Final = 32
"""Runs of the outer model whose values are kept for its bodies; they all stay in memory."""

MOST_TURNS: Final = 4
"""Turns of a loop that are run: in the first, a cache of keys is often empty."""


@dataclass(frozen=True, slots=True)
class BodyData:
    """Inputs of one body.

    Attributes:
        data: The inputs; without feeds if none are known.
        entered: Whether the outer model entered the body in some run. If not, the inputs are those that the body would
            have had.
        problem: Why there are no inputs.
    """

    data: DataSet
    entered: bool = True
    problem: str = ""


def body_data(outer: LoadedModel, data: DataSet, inner: Sequence[Scope]) -> dict[str, BodyData]:
    """Runs a scope and returns the inputs of bodies in it, by their prefix.

    Args:
        outer: The scope around the bodies.
        data: Its inputs.
        inner: The bodies.
    """
    found: dict[str, BodyData] = {}
    turns: dict[str, BodyTurns] = {}
    known = _visible(outer)
    for scope in inner:
        assert scope.body is not None, "only the main graph has no body"
        reader = _turns_of(scope.body)
        hidden = sorted(set(reader.reads) - known) if reader is not None else []
        if reader is None:
            reason = f"it is not known what {scope.body.node.op_type} gives its body"
            found[scope.prefix] = BodyData(DataSet((), ""), problem=reason)
        elif hidden:
            reason = f"the outer value '{hidden[0]}' cannot be read"
            found[scope.prefix] = BodyData(DataSet((), ""), problem=reason)
        else:
            turns[scope.prefix] = reader
    if not turns:
        return found
    names = list(dict.fromkeys(name for reader in turns.values() for name in reader.reads))
    runs: list[dict[str, Array]] = []
    try:
        runs.extend(capture(outer, names, data.feeds[:MOST_RUNS]))
    except QfaError as error:
        reason = f"the graph around it does not run: {error.what}"
        failed = BodyData(DataSet((), ""), problem=reason)
        return found | dict.fromkeys(turns, failed)
    for scope in inner:
        if scope.prefix in turns:
            found[scope.prefix] = _data(scope, turns[scope.prefix], runs, data)
    return found


def _turns_of(body: Body) -> BodyTurns | None:
    kind = None if body.node.domain else TURNS.get(body.node.op_type)
    if kind is None:
        return None
    return kind(body.node, body.place.attribute, body.taken.formal, body.taken.captured)


def _visible(outer: LoadedModel) -> set[str]:
    """Names of the values that can be captured: not the defaults of inputs, which no feed holds."""
    graph = outer.proto.graph
    inputs = {value.name for value in graph.input}
    constants = {tensor.name for tensor in graph.initializer}
    computed = {name for node in graph.node for name in node.output if name}
    return (inputs ^ constants) | computed


def _data(
    scope: Scope, reader: BodyTurns, runs: Sequence[Mapping[str, Array]], data: DataSet
) -> BodyData:
    entered = [values for values in runs if reader.entered(values)]
    feeds = [feed for values in entered or runs for feed in _feeds(scope.model, reader, values)]
    if not feeds:
        return BodyData(DataSet((), ""), problem="no run gives it anything")
    label = f"{data.label} as they reach {scope.prefix.removesuffix('/')}"
    return BodyData(DataSet(tuple(feeds), label, data.digest, data.seeded), entered=bool(entered))


def _feeds(model: LoadedModel, reader: BodyTurns, values: Mapping[str, Array]) -> list[Feed]:
    """Inputs of the first turns, the latest first: it has seen most."""
    try:
        first = reader.first(values)
    except (LookupError, ValueError):
        return []  # nothing to scan
    later = _later(model, reader, values, first) if reader.formal else ()
    return [first, *later][::-1]


def _later(
    model: LoadedModel, reader: BodyTurns, values: Mapping[str, Array], first: Feed
) -> Iterator[Feed]:
    feed: Feed | None = first
    try:
        session = create_session(model, use_library=False, prepack=False)
        for turn in range(1, MOST_TURNS):
            outputs = [np.asarray(value) for value in session.run(None, feed)]
            feed = reader.following(values, outputs, turn)
            if feed is None:
                return
            yield feed
    except Exception:  # ONNX Runtime's exceptions share no other base class
        return  # whether the body runs at all is found out on its first turn
