"""The frame of a pass: requires -> run -> ensures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from qfa_passes.core.passes import Contract, PassResult
from qfa_passes.graph.ir import Graph


class GraphPass(ABC):
    """Changes a graph in place. Subclasses show the graph before and after in their docstring."""

    name: ClassVar[str]
    contract: ClassVar[Contract]

    def requires(self, graph: Graph) -> None:  # noqa: B027 - most passes take any graph
        """Raises if the graph is not what the pass expects."""

    @abstractmethod
    def run(self, graph: Graph) -> int:
        """Changes the graph; returns the number of places changed."""

    def ensures(self, graph: Graph) -> None:  # noqa: B027 - and promise nothing beyond their contract
        """Raises if the graph is not what the pass promises."""

    def __call__(self, graph: Graph) -> PassResult:
        """Runs the pass with its checks; what it leaves dead goes, for the next pass counts readers."""
        self.requires(graph)
        changes = self.run(graph)
        if changes:
            graph.drop_dead()
        self.ensures(graph)
        return PassResult(self.name, changes)


def run_passes(graph: Graph, passes: Iterable[GraphPass]) -> list[PassResult]:
    """Runs passes in order; a pass appends the nodes that it makes, and the next one finds them in their places."""
    graph.drop_dead()  # passes count readers
    results: list[PassResult] = []
    for graph_pass in passes:
        if results and results[-1].modified:
            graph.sort()
        results.append(graph_pass(graph))
    return results
