"""What the function body of a model must serve, summed up over the model's attention nodes.

A runtime knows one body for each operator of a model, and a body cannot ask whether an optional
input is there. So the body reads the union of the optional inputs that the nodes use, and a node
that lacks one gets a neutral input.

Nor can a body ask for an attribute of type string. Where nodes in int8 and nodes in float meet, it
quantizes nothing, for float is right for both, up to what int8 costs.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, helper

from qfa_passes.core import opspec
from qfa_passes.core.formats import AttentionFormat, Rotation, ScaleMode
from qfa_passes.core.printable import printable
from qfa_passes.errors import UnsupportedModelError

OPTIONAL_INPUTS: Final = (
    "attn_mask",
    "attn_bias",
    "k_mean",
    "sink",
    "kv_length",
    "past_key",
    "past_value",
)
"""Optional inputs that a node can do without in a model that reads them. Static scales are none: all
nodes have them or no node has, or the body does not read them."""

QUANTIZING: Final = frozenset({"q_scale", "k_scale", "v_scale", "k_mean"})
"""Inputs that a body in float does not read."""

NEUTRAL: Final[dict[str, npt.NDArray[np.generic]]] = {
    "attn_mask": np.array(True),
    "attn_bias": np.array(0, np.float32),
    "k_mean": np.zeros((1, 1), np.float32),
    "sink": np.array([-np.inf], np.float32),
    "kv_length": np.array([np.iinfo(np.int64).max]),
}
"""Single elements, which the operator knows to ignore at no cost. No past keys are an empty tensor."""


@dataclass(frozen=True, slots=True)
class BodyFeatures:
    """What one body serves: a summary of all attention nodes of a model.

    Attributes:
        opset: Version of ai.onnx that the model imports.
        inputs: Optional inputs that some node uses, out of OPTIONAL_INPUTS.
        causal: Some node is causal.
        scale_mode: Of every node; dynamic if the body is in float.
        rotate: Of every node; none if the body is in float.
        channels: D, the same for every node; needed only to rotate.
        compute: Format of the two products: int8 if it is that of every node, else float.
        softcap: Some node has one.
        windows: Some node has one.
        queries_at_end: Some node places its queries there.
        presents: Some node gives its joined keys or values to the next run.
        any_rank: Q, K and V of some node may have three axes.
        unread: Inputs that some node gives and the body does not read; formal inputs all the same.
    """

    opset: int
    inputs: frozenset[str] = frozenset()
    causal: bool = True
    scale_mode: ScaleMode = ScaleMode.DYNAMIC
    rotate: Rotation = Rotation.NONE
    channels: int | None = None
    compute: AttentionFormat = AttentionFormat.INT8
    softcap: bool = False
    windows: bool = False
    queries_at_end: bool = False
    presents: bool = False
    any_rank: bool = False
    unread: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        nodes: Iterable[NodeProto],
        opset: int,
        channels: int | None = None,
        *,
        any_rank: bool = False,
    ) -> "BodyFeatures":
        """Summarizes the QuantFlashAttention nodes of a model.

        Raises:
            UnsupportedModelError: All nodes are in int8 and differ in scale_mode or rotate, so that
                no single body serves them; or a node's cache holds codes or is shared.
        """
        nodes = list(nodes)
        settings = [_settings(node) for node in nodes]
        for node, entry in zip(nodes, settings, strict=True):
            _check_cache(node, entry)
        compute, mode, rotate = AttentionFormat.FLOAT, ScaleMode.DYNAMIC, Rotation.NONE
        if all(entry["compute_format"] == AttentionFormat.INT8 for entry in settings):
            compute, (mode, rotate) = AttentionFormat.INT8, _agreed(settings)
        given = {name for node in nodes for name in _given(node)}
        unread = given & QUANTIZING if compute is AttentionFormat.FLOAT else set()
        inputs = given.intersection(OPTIONAL_INPUTS) - unread
        if inputs & {"past_key", "past_value"}:
            inputs |= {"past_key", "past_value"}
        return cls(
            opset,
            frozenset(inputs),
            causal=any(entry["is_causal"] for entry in settings),
            scale_mode=mode,
            rotate=rotate,
            channels=channels,
            compute=compute,
            softcap=any(entry["softcap"] > 0 for entry in settings),
            windows=any(
                max(entry["left_window"], entry["right_window"]) >= 0 for entry in settings
            ),
            queries_at_end=any(entry["queries_at_end"] for entry in settings),
            presents=any(any(node.output[1:]) for node in nodes),
            any_rank=any_rank,
            unread=frozenset(unread),
        )

    def input_names(self) -> list[str]:
        """Returns the formal inputs of the body, up to the last that some node gives.

        Nodes completed with neutral inputs have exactly as many, which some runtimes insist on.
        """
        static = {"q_scale", "k_scale", "v_scale"} if self.scale_mode is ScaleMode.STATIC else set()
        used = self.inputs | self.unread | static
        count = 1 + max(
            index for index, spec in enumerate(opspec.INPUTS) if spec.required or spec.name in used
        )
        return [spec.name for spec in opspec.INPUTS[:count]]

    def output_names(self) -> list[str]:
        """Returns the formal outputs of the body."""
        return [spec.name for spec in opspec.OUTPUTS[: 3 if self.presents else 1]]

    def neutral_inputs(self, node: NodeProto) -> dict[str, npt.NDArray[np.generic]]:
        """Returns values, by name, for optional inputs that the body reads and ``node`` lacks."""
        lacking = self.inputs - _given(node)
        return {name: value for name, value in NEUTRAL.items() if name in lacking}

    def lacks_past(self, node: NodeProto) -> bool:
        """True if the body reads past keys and values and ``node`` has none."""
        return "past_key" in self.inputs and "past_key" not in _given(node)


def _given(node: NodeProto) -> set[str]:
    return {spec.name for spec, name in zip(opspec.INPUTS, node.input, strict=False) if name}


def _settings(node: NodeProto) -> dict[str, Any]:
    """All attributes; a string is a str."""
    settings: dict[str, Any] = {item.name: item.default for item in opspec.ATTRIBUTES}
    for item in node.attribute:
        value = helper.get_attribute_value(item)
        settings[item.name] = value.decode() if isinstance(value, bytes) else value
    return settings


def _check_cache(node: NodeProto, settings: dict[str, Any]) -> None:
    """Raises for a cache that standard operators cannot join: no body is better than a wrong one."""
    for name in opspec.CACHE_ATTRIBUTES:
        if settings[name] != opspec.attribute_default(name):
            raise UnsupportedModelError(
                f"attention node '{printable(node.name)}' has {name} {settings[name]}",
                why="the function body serves only caches of numbers that are joined by copying",
                hint="run the model with the operator library, as it is",
            )


def _agreed(settings: list[dict[str, Any]]) -> tuple[ScaleMode, Rotation]:
    modes = {(entry["scale_mode"], entry["rotate"]) for entry in settings}
    if len(modes) > 1:
        raise UnsupportedModelError(
            f"attention nodes of one model use {sorted(modes)}",
            why="one function body serves them all, so scale_mode and rotate must agree",
            hint="choose one scale mode and one rotation for the whole model",
        )
    mode, rotate = modes.pop() if modes else (ScaleMode.DYNAMIC, Rotation.NONE)
    return ScaleMode(mode), Rotation(rotate)
