"""Values after operators of other domains get their types back."""

from __future__ import annotations

from typing import ClassVar

from qfa_passes.core.passes import Contract
from qfa_passes.graph.graph_pass import GraphPass
from qfa_passes.graph.inferred_types import infer_types
from qfa_passes.graph.ir import Graph


class InferTypes(GraphPass):
    """Types that ONNX shape inference lost.

    Before: ``y = com.microsoft.SkipLayerNormalization(x, s, gamma)``, ``z = Add(y, b)``, both of unknown type.
    After: the same nodes; ``y`` and ``z`` have the type of ``gamma``.
    """

    name: ClassVar[str] = "infer-types"
    contract: ClassVar[Contract] = Contract.EXACT

    def run(self, graph: Graph) -> int:
        """Fills in types; nodes stay as they are."""
        return infer_types(graph)
