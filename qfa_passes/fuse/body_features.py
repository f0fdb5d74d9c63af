"""What the function body of a model must serve, summed up over the model's attention nodes.

A runtime knows one body for each operator of a model, and a body cannot ask whether an optional
input is there. So the body reads the union of the optional inputs that the nodes use, and a node
that lacks one gets a neutral input.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, helper

from qfa_passes.core import opspec
from qfa_passes.core.formats import Rotation, ScaleMode
from qfa_passes.errors import UnsupportedModelError

OPTIONAL_INPUTS: Final = ("attn_mask", "attn_bias", "k_mean")
"""Optional inputs that have a neutral value. Static scales have none: all nodes have them or no
node has."""


@dataclass(frozen=True, slots=True)
class BodyFeatures:
    """What one body serves: a summary of all attention nodes of a model.

    Attributes:
        opset: Version of ai.onnx that the model imports.
        inputs: Optional inputs that some node uses, out of OPTIONAL_INPUTS.
        causal: Some node is causal.
        scale_mode: Of every node.
        rotate: Of every node.
        channels: D, the same for every node; needed only to rotate.
    """

    opset: int
    inputs: frozenset[str] = frozenset()
    causal: bool = True
    scale_mode: ScaleMode = ScaleMode.DYNAMIC
    rotate: Rotation = Rotation.NONE
    channels: int | None = None

    @classmethod
    def of(
        cls, nodes: Iterable[NodeProto], opset: int, channels: int | None = None
    ) -> "BodyFeatures":
        """Summarizes the QuantFlashAttention nodes of a model.

        Raises:
            UnsupportedModelError: The nodes differ in scale_mode or rotate, so that no single body
                serves them.
        """
        inputs: set[str] = set()
        causal = False
        modes: set[tuple[str, str]] = set()
        for node in nodes:
            named = {
                spec.name for spec, name in zip(opspec.INPUTS, node.input, strict=False) if name
            }
            inputs |= named.intersection(OPTIONAL_INPUTS)
            attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
            causal |= bool(attributes.get("is_causal", 0))
            mode, rotate = (
                attributes.get(name, default)
                for name, default in (("scale_mode", b"dynamic"), ("rotate", b"none"))
            )
            modes.add((mode.decode(), rotate.decode()))
        if len(modes) > 1:
            raise UnsupportedModelError(
                f"attention nodes of one model use {sorted(modes)}",
                why="one function body serves them all, so scale_mode and rotate must agree",
                hint="choose one scale mode and one rotation for the whole model",
            )
        mode, rotate = modes.pop() if modes else (ScaleMode.DYNAMIC, Rotation.NONE)
        return cls(opset, frozenset(inputs), causal, ScaleMode(mode), Rotation(rotate), channels)

    def input_names(self) -> list[str]:
        """Returns the formal inputs of the body, up to the last that some node uses.

        Nodes completed with ``neutral_inputs`` have exactly as many, which some runtimes insist on.
        """
        static = {"q_scale", "k_scale", "v_scale"} if self.scale_mode is ScaleMode.STATIC else set()
        used = self.inputs | static
        count = 1 + max(
            index for index, spec in enumerate(opspec.INPUTS) if spec.required or spec.name in used
        )
        return [spec.name for spec in opspec.INPUTS[:count]]

    def neutral_inputs(self, node: NodeProto) -> dict[str, npt.NDArray[np.generic]]:
        """Returns values, by name, for optional inputs that the body reads and ``node`` lacks.

        They are single elements, which the operator knows to ignore at no cost.
        """
        neutral: dict[str, npt.NDArray[np.generic]] = {
            "attn_mask": np.array(True),
            "attn_bias": np.array(0, np.float32),
            "k_mean": np.zeros((1, 1), np.float32),
        }
        present = {spec.name for spec, name in zip(opspec.INPUTS, node.input, strict=False) if name}
        return {name: neutral[name] for name in OPTIONAL_INPUTS if name in self.inputs - present}
