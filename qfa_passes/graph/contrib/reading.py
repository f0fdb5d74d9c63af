"""What all readers of fused nodes share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.graph.dims import Dim
from qfa_passes.graph.shapes import Shape, ShapeMap

DOMAIN: Final = "com.microsoft"


class Unsupported(Exception):  # noqa: N818 - not an error: the node stays, and the matcher says why
    """A variant of an operator that is not written out.

    Args:
        reason: What was seen, naming the node and its values.
        hint: What the user can do.
    """

    def __init__(self, reason: str, hint: str = "") -> None:
        """Keeps both texts."""
        super().__init__(reason)
        self.reason, self.hint = reason, hint


@dataclass(frozen=True, slots=True)
class FusedNode:
    """A node with its optional inputs by name.

    Attributes:
        node: The node.
        shapes: Symbolic shapes of its graph.
        inputs: Those of its inputs that are given, by formal name.
        outputs: Its outputs as they were when it was read.
    """

    node: gs.Node
    shapes: ShapeMap
    inputs: dict[str, gs.Tensor]
    outputs: tuple[gs.Tensor, ...]

    @staticmethod
    def of(node: gs.Node, shapes: ShapeMap, names: tuple[str, ...]) -> FusedNode:
        """Takes a node and the formal names of its inputs."""
        given = zip(names, node.inputs, strict=False)
        inputs = {name: tensor for name, tensor in given if tensor.name}
        return FusedNode(node, shapes, inputs, tuple(node.outputs))

    @property
    def label(self) -> str:
        """Operator and name, for reasons."""
        return f"{self.node.op} '{self.node.name}'"

    def number(self, name: str, default: float = 0.0) -> float:
        """A float attribute."""
        return float(self.node.attrs.get(name, default))

    def integer(self, name: str, default: int = 0) -> int:
        """An integer attribute."""
        return int(self.node.attrs.get(name, default))

    def refuse_inputs(self, *names: str) -> None:
        """Raises Unsupported if one of these inputs is given."""
        for name in names:
            if name in self.inputs:
                raise Unsupported(f"input {name} of {self.label} is not supported")

    def require_inputs(self, *names: str) -> None:
        """Raises Unsupported if one of these inputs is missing."""
        for name in names:
            if name not in self.inputs:
                raise Unsupported(f"{self.label} has no input {name}")

    def refuse_output(self, position: int, name: str) -> None:
        """Raises Unsupported if an output has a name."""
        if self.output(position) is not None:
            raise Unsupported(
                f"output {name} of {self.label} is asked for",
                "export the model without attention weights",
            )

    def output(self, position: int) -> gs.Tensor | None:
        """An optional output, if it has a name."""
        given = len(self.outputs) > position and self.outputs[position].name
        return self.outputs[position] if given else None

    def shape(self, name: str, *ranks: int) -> Shape:
        """The symbolic shape of an input; raises Unsupported if its rank is not known to be one of ``ranks``."""
        tensor = self.inputs[name]
        shape = self.shapes.shape(tensor)
        if shape is None or len(shape) not in ranks:
            seen = "unknown" if shape is None else str(len(shape))
            wanted = " or ".join(map(str, ranks))
            raise Unsupported(
                f"input {name} of {self.label} ('{tensor.name}') has rank {seen}, expected {wanted}"
            )
        return shape

    def check_rank(self, name: str, rank: int) -> None:
        """Raises Unsupported if an input is given whose rank is not known to be this one."""
        if name in self.inputs:
            self.shape(name, rank)

    def check_past(self) -> None:
        """Raises Unsupported unless past_key and past_value, (B, Hkv, P, channels), are both given or both left out."""
        if ("past_key" in self.inputs) != ("past_value" in self.inputs):
            raise Unsupported(f"{self.label} has only one of past_key and past_value")
        self.check_rank("past_key", 4)
        self.check_rank("past_value", 4)

    def extent(self, name: str, axis: int, *ranks: int) -> int:
        """A constant extent of an input; raises Unsupported if it is not known."""
        return self.fixed(self.shape(name, *ranks)[axis], f"axis {axis} of input {name}")

    def fixed(self, extent: Dim, what: str) -> int:
        """The number that an extent is; raises Unsupported if it depends on the run."""
        if not extent.value:
            raise Unsupported(
                f"{what} of {self.label} is not known ({extent})",
                "save the model with its shapes (onnx.shape_inference)",
            )
        return extent.value

    def per_head(self, channels: int, heads: int, what: str) -> int:
        """Channels of one head; raises Unsupported if they do not divide evenly."""
        if heads < 1 or channels % heads:
            raise Unsupported(
                f"the {channels} channels of {what} of {self.label} for {heads} heads"
            )
        return channels // heads

    def scale(self, channels: int) -> float:
        """Attribute scale; 0 stands for 1 / sqrt(channels)."""
        scale = self.number("scale")
        return scale if scale and math.isfinite(scale) else 1 / math.sqrt(channels)

    def element(self, name: str) -> np.dtype[np.generic]:
        """The element type of an input; raises Unsupported for others than float32 and float16."""
        tensor = self.inputs[name]
        try:
            element: np.dtype[np.generic] = np.dtype(tensor.dtype)
        except TypeError:
            element = np.dtype(np.void)
        if element not in (np.float32, np.float16):
            raise Unsupported(
                f"'{tensor.name}' ({name} of {self.label}) has type {tensor.dtype},"
                " expected float32 or float16"
            )
        return element

    def integer_type(self, name: str) -> bool:
        """True unless an input is known to have another type than int32 or int64."""
        return self.inputs[name].dtype in (None, np.int32, np.int64)
