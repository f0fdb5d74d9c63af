"""Writing out one node in plain operators, under its name and in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from qfa_passes.core.origin import Origin
from qfa_passes.graph.edit import replace_uses
from qfa_passes.graph.ir import Graph

STANDARD = "ai.onnx"


class Writer:
    """Collects the nodes that stand for one node of the source model.

    Attributes:
        nodes: What was written, in topological order.
        element: Element type of the floats.
    """

    def __init__(self, graph: Graph, node: gs.Node, element: np.dtype[np.generic] | None) -> None:
        """Takes the node that will be replaced."""
        self.nodes: list[gs.Node] = []
        self.element = element
        self._graph, self._node = graph, node
        self._origin = Origin(node.name, f"{node.domain or STANDARD}::{node.op}")

    def op(
        self, op: str, step: str, *inputs: gs.Tensor, dtype: object = None, **attrs: object
    ) -> gs.Variable:
        """Writes a node with one output, a float unless ``dtype`` says otherwise; returns the output."""
        return self._write(op, step, inputs, 1, dtype, attrs)[0]

    def split(self, step: str, tensor: gs.Tensor, sizes: Sequence[int], axis: int) -> list[Any]:
        """Cuts a value into parts of these sizes."""
        if len(sizes) == 1:
            return [tensor]
        inputs = (tensor, self.numbers(f"{step}_sizes", *sizes))
        return self._write("Split", step, inputs, len(sizes), None, {"axis": axis})

    def transpose(self, step: str, tensor: gs.Tensor, *perm: int) -> gs.Tensor:
        """Permutes axes; the value itself for the identity."""
        if perm == tuple(range(len(perm))):
            return tensor
        return self.op("Transpose", step, tensor, dtype=tensor.dtype, perm=list(perm))

    def reshape(self, step: str, tensor: gs.Tensor, *shape: int) -> gs.Variable:
        """Another shape; 0 keeps an extent and -1 takes what is left."""
        target = self.numbers(f"{step}_shape", *shape)
        return self.op("Reshape", step, tensor, target, dtype=tensor.dtype)

    def unsqueeze(self, step: str, tensor: gs.Tensor, *axes: int) -> gs.Variable:
        """New axes of extent 1 at these places of the result."""
        where = self.numbers(f"{step}_axes", *axes)
        return self.op("Unsqueeze", step, tensor, where, dtype=tensor.dtype)

    def cut(self, step: str, tensor: gs.Tensor, axis: int, start: int, end: int) -> gs.Variable:
        """The indices from ``start`` to before ``end`` of an axis."""
        bounds = [
            self.numbers(f"{step}_{part}", value)
            for part, value in (("start", start), ("end", end), ("axis", axis))
        ]
        return self.op("Slice", step, tensor, *bounds, dtype=tensor.dtype)

    def extent(self, step: str, tensor: gs.Tensor, axis: int) -> gs.Variable:
        """The extent of an axis, as an int64 scalar."""
        shape = self.op("Shape", f"{step}_shape", tensor, dtype=np.int64)
        return self.op(
            "Gather", step, shape, self.scalar(f"{step}_axis", axis), dtype=np.int64, axis=0
        )

    def count(self, step: str, end: gs.Tensor) -> gs.Variable:
        """0, 1, 2, ... to before ``end``, an int64 scalar."""
        zero, one = self.scalar("zero", 0), self.scalar("one", 1)
        return self.op("Range", step, zero, end, one, dtype=np.int64)

    def wide(self, step: str, tensor: gs.Tensor) -> gs.Variable:
        """The value as int64."""
        return self.op("Cast", f"{step}_wide", tensor, dtype=np.int64, to=np.int64)

    def numbers(self, step: str, *values: int) -> gs.Constant:
        """A list of int64."""
        return self.constant(step, np.array(values, dtype=np.int64))

    def scalar(self, step: str, value: int) -> gs.Constant:
        """One int64."""
        return self.constant(step, np.array(value, dtype=np.int64))

    def real(self, step: str, value: float) -> gs.Constant:
        """One float of the element type; numbers that are too large for it become infinite."""
        assert self.element is not None
        with np.errstate(over="ignore"):
            return self.constant(step, np.array(value).astype(self.element))

    def constant(self, step: str, value: npt.NDArray[Any]) -> gs.Constant:
        """An initializer."""
        return gs.Constant(self._graph.new_name(self._origin.step(step)), value)

    def give(self, value: gs.Tensor, output: gs.Tensor) -> None:
        """Makes the last node written for ``value`` compute an output of the replaced node."""
        producer = value.inputs[0]
        replace_uses(value, output)
        output.dtype = output.dtype if output.dtype is not None else value.dtype
        output.inputs.clear()
        producer.outputs.clear()
        producer.outputs.append(output)

    def give_any(self, value: gs.Tensor, output: gs.Tensor) -> None:
        """As `give`, for a value that need not have been written here."""
        written = value.inputs and any(node is value.inputs[0] for node in self.nodes)
        self.give(value if written else self.op("Identity", "same", value), output)

    def _write(
        self,
        op: str,
        step: str,
        inputs: Sequence[gs.Tensor],
        outputs: int,
        dtype: object,
        attrs: dict[str, object],
    ) -> list[gs.Variable]:
        name = self._graph.new_name(self._origin.step(step))
        endings = [""] if outputs == 1 else [f"_{number}" for number in range(outputs)]
        element = self.element if dtype is None else dtype
        made = [
            gs.Variable(self._graph.new_name(f"{name}_output{ending}"), dtype=element)
            for ending in endings
        ]
        self.nodes.append(gs.Node(op, name, attrs, list(inputs), list(made)))
        return made


def replace_nodes(graph: Graph, write: Callable[[gs.Node], Writer | None]) -> int:
    """Puts what ``write`` returns for a node in its place; returns how many nodes were replaced."""
    nodes: list[gs.Node] = []
    changes = 0
    for node in graph.nodes:
        writer = write(node)
        if writer is None:
            nodes.append(node)
            continue
        node.inputs.clear()
        node.outputs.clear()
        nodes.extend(writer.nodes)
        changes += 1
    graph.gs.nodes[:] = nodes
    return changes
