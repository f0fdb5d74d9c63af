"""Names of nodes that stand for a node of the source model, so that it can be told where they came from."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_MARK: Final = re.compile(r"^(?P<node>.+)/\((?P<op>[\w.]+::\w+)\)/[^/]+$")


@dataclass(frozen=True, slots=True)
class Origin:
    """A node of the source model that was written out in plain operators.

    Attributes:
        node: Its name.
        op: Its domain and operator, such as ``com.microsoft::GroupQueryAttention``.
    """

    node: str
    op: str

    def step(self, step: str) -> str:
        """The name of one of the nodes that stand for it: ``<node>/(<op>)/<step>``."""
        return f"{self.node}/({self.op})/{step}"


def origin_of(name: str) -> Origin | None:
    """Tells from the name of a node or site where it came from; None if the source model has it so itself."""
    found = _MARK.match(name)
    return None if found is None else Origin(found["node"], found["op"])


def origin_nodes(names: Iterable[str]) -> frozenset[str]:
    """Names of the source nodes that some nodes or sites came from."""
    return frozenset(origin.node for name in names if (origin := origin_of(name)) is not None)
