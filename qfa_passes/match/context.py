"""What every matcher sees, and how it says no."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from qfa_passes.graph.ir import Graph, is_op
from qfa_passes.graph.shape_inference import infer_shapes
from qfa_passes.graph.shapes import ShapeMap


class MatchFailure(Exception):  # noqa: N818 - not an error: it becomes a Refusal
    """A candidate that is not understood; becomes a Refusal.

    Args:
        reason: What was seen, naming nodes and values.
        hint: What the user can do.
        depth: How many steps were understood before; of two attempts the deeper one tells more.
    """

    def __init__(self, reason: str, hint: str = "", *, depth: int = 1000) -> None:
        """Keeps the texts."""
        super().__init__(reason)
        self.reason, self.hint, self.depth = reason, hint, depth


@dataclass(slots=True)
class MatchContext:
    """One graph and what is known of it.

    Attributes:
        graph: The graph, nodes in topological order.
        shapes: Symbolic shapes.
        outputs: Names of the graph's outputs.
        tensors: All values by name.
        mask_cache: Verdicts on masks; layers share masks.
        steps: What was understood of the candidate at hand, in words, for its refusal.
    """

    graph: Graph
    shapes: ShapeMap
    outputs: frozenset[str]
    tensors: dict[str, gs.Tensor]
    mask_cache: dict[object, object] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)

    @staticmethod
    def of(graph: Graph) -> MatchContext:
        """Builds the context of a graph."""
        outputs = frozenset(tensor.name for tensor in graph.gs.outputs)
        return MatchContext(graph, infer_shapes(graph), outputs, graph.tensors())

    def only_consumer(
        self, tensor: gs.Tensor, role: str, *, aside: gs.Node | None = None, depth: int = 1000
    ) -> gs.Node:
        """Returns the single consumer of a value; fails if it is an output or used elsewhere too.

        Args:
            tensor: The value.
            role: What it is, for the message.
            aside: A consumer that does not count.
            depth: How many steps were understood before.
        """
        shown = self._shown(tensor)
        if shown is not None:
            alias = "" if shown == tensor.name else f" ('{shown}')"
            raise MatchFailure(
                f"the {role} ('{tensor.name}') is an output of the model{alias}",
                "export the model without attention weights (output_attentions=False)",
                depth=depth,
            )
        consumers = list({id(node): node for node in tensor.outputs if node is not aside}.values())
        if len(consumers) != 1:
            consumers.sort(key=lambda node: node.op == "Shape")  # what reads numbers is named first
            names = ", ".join(f"'{node.name}'" for node in consumers[:3]) or "nothing"
            raise MatchFailure(
                f"the {role} ('{tensor.name}') is used by {len(consumers)} nodes ({names})",
                "the fused operator never holds it, so what else reads it would need it computed a second time"
                if consumers
                else "",
                depth=depth,
            )
        return consumers[0]

    def _shown(self, tensor: gs.Tensor) -> str | None:
        """The model output that is this value, perhaps by another name; None if none is."""
        if tensor.name in self.outputs:
            return str(tensor.name)
        aliases = (node.outputs[0].name for node in tensor.outputs if is_op(node, "Identity"))
        return next((name for name in aliases if name in self.outputs), None)
