"""The nearest of some nodes to a node or value that a person names."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from onnx import NodeProto

from qfa_passes.graph.preserved import captured_names


@dataclass(frozen=True, slots=True)
class Nearest:
    """One of the wanted nodes.

    Attributes:
        name: Its name.
        steps: How many nodes away it is; 0 if it was named itself.
    """

    name: str
    steps: int


class Neighbourhood:
    """Which nodes share values, in one or several forms of the same graph."""

    def __init__(self, nodes: Iterable[NodeProto]) -> None:
        """Takes nodes with names; forms of a graph meet where names of values agree."""
        self._values: dict[str, list[str]] = {}
        self._users: dict[str, list[str]] = {}
        for node in nodes:
            values = [name for name in (*node.input, *node.output, *captured_names(node)) if name]
            self._values.setdefault(node.name, []).extend(values)
            for name in values:
                self._users.setdefault(name, []).append(node.name)

    def __contains__(self, name: object) -> bool:
        """True if a node or a value has this name."""
        return name in self._values or name in self._users

    def __iter__(self) -> Iterator[str]:
        """Names of nodes, then of values."""
        yield from self._values
        yield from self._users

    def find(self, name: str, wanted: Collection[str], most: int) -> Nearest | None:
        """The wanted node that is fewest nodes away from a node or value, at most ``most``; None if there is none."""
        start = [name] if name in self._values else self._users.get(name, [])
        queue = deque((node, 0) for node in start)
        seen = set(start)
        while queue:
            node, steps = queue.popleft()
            if node in wanted:
                return Nearest(node, steps)
            if steps == most:
                continue
            for value in self._values.get(node, ()):
                for other in self._users[value]:
                    if other not in seen:
                        seen.add(other)
                        queue.append((other, steps + 1))
        return None
