"""What attention is in a model, and what became of any node of it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Final

from qfa_passes.core.model import LoadedModel
from qfa_passes.core.site import AttentionSite
from qfa_passes.errors import UsageError
from qfa_passes.graph.ir import name_nodes
from qfa_passes.graph.nearest import Neighbourhood
from qfa_passes.opened import Found, Scope, match_scopes, name_of, open_model
from qfa_passes.report.exporter import exporter_family
from qfa_passes.verify.models import model_facts

_NEAR: Final = 8
"""Nodes between a node and the attention that it is held to belong to."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of a node.

    Attributes:
        asked: The name that was given.
        entry: The attention that it belongs to, or the nearest.
        steps: Nodes between the two.
    """

    asked: str
    entry: Found
    steps: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """The attention of a model.

    Attributes:
        exporter: Which program wrote the model.
        fused: Blocks that are QuantFlashAttention already.
        in_float: Those of them that quantize nothing.
        found: Sites and refusals, those of the main graph first.
        scopes: The graphs that were looked at.
        source: The model.
    """

    exporter: str
    fused: int
    in_float: int
    found: tuple[Found, ...]
    scopes: tuple[Scope, ...]
    source: LoadedModel

    @staticmethod
    def of(model: LoadedModel) -> Inspection:
        """Looks at a model."""
        scopes = match_scopes(open_model(model))
        found = tuple(entry for scope in scopes for entry in scope.found)
        facts = model_facts(model)
        exporter = exporter_family(model.proto)
        return Inspection(exporter, facts.fused or 0, facts.in_float, found, tuple(scopes), model)

    def about(self, name: str) -> Answer:
        """Tells what became of a node or value.

        Args:
            name: Of a node or value of the model; in bodies and functions with or without the prefix of the scope.

        Raises:
            UsageError: There is no such name, or no attention near it.
        """
        for entry in self.found:
            if name == name_of(entry):
                return Answer(name, entry, 0)
        known: list[str] = [name_of(entry) for entry in self.found]
        present = False
        for scope in self.scopes:
            around = self._around(scope)
            local = name.removeprefix(scope.prefix)
            known.extend(around)
            if local not in around:
                continue
            present = True
            wanted = _anchors(scope)
            nearest = around.find(local, wanted.keys(), _NEAR)
            if nearest is not None:
                return Answer(name, wanted[nearest.name], nearest.steps)
        if present:
            raise UsageError(
                f"no attention is near '{name}'",
                why=f"none of the {len(self.found)} blocks that were found is within {_NEAR} nodes",
                hint="run `inspect MODEL` for their names",
            )
        close = difflib.get_close_matches(name, dict.fromkeys(known), 3)
        names = " or ".join(f"'{other}'" for other in close)
        raise UsageError(
            f"no node or value is called '{name}'",
            hint=f"did you mean {names}?" if close else "run `inspect MODEL` for names",
        )

    def _around(self, scope: Scope) -> Neighbourhood:
        """Both forms of the main graph, for a person knows the one that is in the file; bodies as they were matched."""
        nodes = list(scope.model.proto.graph.node)
        if scope.body is None:
            shell = type(self.source.proto.graph)()
            shell.CopyFrom(self.source.proto.graph)
            name_nodes(shell)
            nodes += shell.node
        return Neighbourhood(nodes)


def _anchors(scope: Scope) -> dict[str, Found]:
    """What was found, by the names of nodes that belong to it in its scope."""
    anchors: dict[str, Found] = {}
    for entry in scope.found:
        anchors[name_of(entry).removeprefix(scope.prefix)] = entry
        if isinstance(entry, AttentionSite):
            anchors |= dict.fromkeys(entry.nodes, entry)
    return anchors
