"""The axes of a node, which are an attribute in old operator sets and an input in new ones."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from qfa_passes.graph.constants import constant_value
from qfa_passes.graph.shapes import ShapeMap


def axes_of(node: gs.Node, known: ShapeMap, position: int = 1) -> list[int] | None:
    """The axes as they are written; [] if none are given, None if they depend on the run."""
    if "axes" in node.attrs:
        return [int(axis) for axis in node.attrs["axes"]]
    if len(node.inputs) > position and node.inputs[position].name:
        value = constant_value(node.inputs[position])
        if value is not None:
            return [int(axis) for axis in value.reshape(-1)]
        content = known.content(node.inputs[position])
        if content is not None and all(item.value is not None for item in content.items):
            return [int(item.value or 0) for item in content.items]
        return None
    return []
