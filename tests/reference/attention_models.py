"""ONNX models of QuantFlashAttention nodes, with their function body, for tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from qfa_passes.core import opspec
from qfa_passes.fuse.body_features import BodyFeatures
from qfa_passes.fuse.function_body import function_body

Array = npt.NDArray[np.generic]
IR_VERSIONS = {15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12, 25: 13}


@dataclass(frozen=True)
class Site:
    """One attention node: arrays for its inputs, and its attributes."""

    inputs: Mapping[str, Array]
    scale: float = 1.0
    is_causal: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def heads(self) -> int:
        """H."""
        return self.inputs["query"].shape[1]

    @property
    def kv_heads(self) -> int:
        """Hkv."""
        return self.inputs["key"].shape[1]

    def node(self, index: int) -> NodeProto:
        """Returns the node; input ``x`` of site 3 is called ``x_3``."""
        names = [
            f"{spec.name}_{index}" if spec.name in self.inputs else "" for spec in opspec.INPUTS
        ]
        while not names[-1]:
            names.pop()
        return helper.make_node(
            opspec.OP_TYPE,
            names,
            [f"output_{index}"],
            name=f"attention_{index}",
            domain=opspec.DOMAIN,
            num_heads=self.heads,
            kv_num_heads=self.kv_heads,
            scale=float(self.scale),
            is_causal=int(self.is_causal),
            compute_format="int8",
            schema_version=opspec.SCHEMA_VERSION,
            **{"scale_mode": "dynamic", "rotate": "none", **self.attributes},
        )


def build_model(sites: Sequence[Site], opset: int) -> tuple[ModelProto, dict[str, Array]]:
    """Returns a model of independent sites with one body, and its feeds; every size is symbolic.

    Sites that lack an optional input of the body get the neutral value as an initializer, as the
    fuse pass does it.
    """
    nodes = [site.node(index) for index, site in enumerate(sites)]
    channels = {site.inputs["query"].shape[3] for site in sites}
    features = BodyFeatures.of(nodes, opset, channels.pop() if len(channels) == 1 else None)
    feeds: dict[str, Array] = {}
    initializers: list[TensorProto] = []
    graph_inputs, graph_outputs = [], []
    for index, (site, node) in enumerate(zip(sites, nodes, strict=True)):
        neutral = features.neutral_inputs(node)
        for name, value in neutral.items():
            position = opspec.input_index(name)
            node.input.extend([""] * (position + 1 - len(node.input)))
            node.input[position] = f"neutral_{name}_{index}"
            initializers.append(
                onnx.numpy_helper.from_array(np.asarray(value), node.input[position])
            )
        for name, value in site.inputs.items():
            feeds[f"{name}_{index}"] = value
            dims = [f"{name}_{index}_{axis}" for axis in range(value.ndim)]
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            graph_inputs.append(helper.make_tensor_value_info(f"{name}_{index}", kind, dims))
        kind = helper.np_dtype_to_tensor_dtype(site.inputs["query"].dtype)
        dims = [f"output_{index}_{axis}" for axis in range(4)]
        graph_outputs.append(helper.make_tensor_value_info(f"output_{index}", kind, dims))
    graph = helper.make_graph(nodes, "sites", graph_inputs, graph_outputs, initializers)
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(opspec.DOMAIN, 1)],
        functions=[function_body(features)],
        ir_version=IR_VERSIONS[opset],
    )
    return model, feeds
