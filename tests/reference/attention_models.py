"""ONNX models of QuantFlashAttention nodes, with their function body, for tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, helper

from qfa_passes.core import opspec
from qfa_passes.fuse.attach_body import attach_body

Array = npt.NDArray[np.generic]
IR_VERSIONS = {
    15: 8,
    16: 8,
    17: 8,
    18: 8,
    19: 9,
    20: 9,
    21: 10,
    22: 10,
    23: 11,
    24: 12,
    25: 13,
    26: 13,
}


@dataclass(frozen=True)
class Site:
    """One attention node: arrays for its inputs, and its attributes.

    Attributes:
        inputs: Arrays by input name.
        scale: Factor of the scores.
        is_causal: Whether later keys are hidden.
        attributes: Further attributes.
        presents: The node gives its joined keys and values too.
        flat: Q, K and V are given as (B, rows, heads * channels), and so is the output.
    """

    inputs: Mapping[str, Array]
    scale: float = 1.0
    is_causal: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict)
    presents: bool = False
    flat: bool = False

    @property
    def heads(self) -> int:
        """H."""
        return self.inputs["query"].shape[1]

    @property
    def kv_heads(self) -> int:
        """Hkv."""
        return self.inputs["key"].shape[1]

    def feeds(self) -> dict[str, Array]:
        """The inputs, in the layout in which the node takes them."""
        given = dict(self.inputs)
        if self.flat:
            given |= {name: merged(given[name]) for name in ("query", "key", "value")}
        return given

    def node(self, index: int) -> NodeProto:
        """Returns the node; input ``x`` of site 3 is called ``x_3``."""
        names = [
            f"{spec.name}_{index}" if spec.name in self.inputs else "" for spec in opspec.INPUTS
        ]
        while not names[-1]:
            names.pop()
        given = {"scale_mode": "dynamic", "rotate": "none", "compute_format": "int8"}
        return helper.make_node(
            opspec.OP_TYPE,
            names,
            self.outputs(index),
            name=f"attention_{index}",
            domain=opspec.DOMAIN,
            num_heads=self.heads,
            kv_num_heads=self.kv_heads,
            scale=float(self.scale),
            is_causal=int(self.is_causal),
            schema_version=opspec.SCHEMA_VERSION,
            **{**given, **self.attributes},
        )

    def outputs(self, index: int) -> list[str]:
        """Names of the results."""
        count = 3 if self.presents else 1
        return [f"{spec.name}_{index}" for spec in opspec.OUTPUTS[:count]]


def merged(x: Array) -> Array:
    """(B, heads, rows, channels) as (B, rows, heads * channels)."""
    return x.transpose(0, 2, 1, 3).reshape(
        x.shape[0], x.shape[2], -1 if x.size else x.shape[1] * x.shape[3]
    )


def build_model(sites: Sequence[Site], opset: int) -> tuple[ModelProto, dict[str, Array]]:
    """Returns a model of independent sites with one body, and its feeds; every size is symbolic."""
    channels = {site.inputs["query"].shape[3] for site in sites}
    feeds: dict[str, Array] = {}
    graph_inputs, graph_outputs = [], []
    for index, site in enumerate(sites):
        for name, value in site.feeds().items():
            feeds[f"{name}_{index}"] = value
            dims: list[str | int] = [f"{name}_{index}_{axis}" for axis in range(value.ndim)]
            if value.ndim > 2:
                dims[-1] = value.shape[-1]
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            graph_inputs.append(helper.make_tensor_value_info(f"{name}_{index}", kind, dims))
        kind = helper.np_dtype_to_tensor_dtype(site.inputs["query"].dtype)
        for name in site.outputs(index):
            rank = 3 if site.flat and name.startswith("output") else 4
            dims = [f"{name}_{axis}" for axis in range(rank)]
            graph_outputs.append(helper.make_tensor_value_info(name, kind, dims))
    nodes = [site.node(index) for index, site in enumerate(sites)]
    graph = helper.make_graph(nodes, "sites", graph_inputs, graph_outputs)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSIONS[opset]
    )
    attach_body(model, channels.pop() if len(channels) == 1 else None)
    return model, feeds
