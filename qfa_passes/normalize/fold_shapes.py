"""Shape arithmetic whose result is known becomes a constant."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.core.passes import Contract
from qfa_passes.graph.edit import replace_uses
from qfa_passes.graph.graph_pass import GraphPass
from qfa_passes.graph.ir import Graph
from qfa_passes.graph.shapes import infer_shapes


class FoldShapes(GraphPass):
    """Integer tensors that are the same in every run.

    Before: ``d = Gather(Shape(q), 3)``, ``h = Div(d, 2)``. After: the initializer ``h`` = 32 where q is (B, H, S, 64).
    """

    name: ClassVar[str] = "fold-shapes"
    contract: ClassVar[Contract] = Contract.EXACT

    def run(self, graph: Graph) -> int:
        """Replaces every computed integer tensor with a known content."""
        shapes = infer_shapes(graph)
        outputs = {id(tensor) for tensor in graph.gs.outputs}
        changes = 0
        for node in graph.nodes:
            if len(node.outputs) != 1 or id(node.outputs[0]) in outputs:
                continue
            output = node.outputs[0]
            content = shapes.content(output)
            if content is None or output.dtype not in (np.int64, np.int32):
                continue
            numbers = [item.value for item in content.items]
            if any(number is None for number in numbers):
                continue
            value = np.array(numbers, dtype=output.dtype)
            folded = gs.Constant(output.name, value.reshape(()) if content.scalar else value)
            node.outputs.clear()
            replace_uses(output, folded)
            changes += 1
        return changes
