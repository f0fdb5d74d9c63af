"""Nodes whose result is known give way to initializers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy.typing as npt
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from qfa_passes.graph.edit import replace_uses
from qfa_passes.graph.ir import Graph

Content: TypeAlias = npt.NDArray[Any] | LazyValues


def to_constants(graph: Graph, content: Callable[[gs.Node], Content | None]) -> int:
    """Replaces the results that ``content`` knows, in order; graph outputs stay computed. Returns their number."""
    outputs = {id(tensor) for tensor in graph.gs.outputs}
    changes = 0
    for node in graph.nodes:
        if len(node.outputs) != 1 or id(node.outputs[0]) in outputs:
            continue
        known = content(node)
        if known is None:
            continue
        output = node.outputs[0]
        node.outputs.clear()
        replace_uses(output, gs.Constant(output.name, known))
        changes += 1
    return changes
