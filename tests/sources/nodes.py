"""Models of one fused node, run by ONNX Runtime as they are and after normalization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import ModelProto, helper

from qfa_passes.core.site import AttentionSite, Refusal
from qfa_passes.graph.graph_pass import run_passes
from qfa_passes.graph.ir import Graph
from qfa_passes.match import find_sites
from qfa_passes.normalize import NORMALIZE

Array = npt.NDArray[Any]
TOLERANCE = 1e-5


@dataclass
class FusedNode:
    """One node with its inputs by formal name.

    Attributes:
        op: Operator of com.microsoft.
        names: All formal inputs in order.
        feeds: The given ones.
        shapes: Declared shapes; the extents of the feed where a name is missing.
        attrs: Attributes.
        outputs: Names and ranks of the outputs.
        opset: Version of ai.onnx.
        constants: Which inputs are initializers.
        kind: Element type of the outputs.
    """

    op: str
    names: Sequence[str]
    feeds: dict[str, Array]
    shapes: Mapping[str, Sequence[int | str]] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, int] = field(default_factory=lambda: {"output": 3})
    opset: int = 17
    constants: Sequence[str] = ()
    kind: Any = np.float32

    def model(self) -> ModelProto:
        """The model; its inputs carry the formal names."""

        def code(kind: Any) -> int:
            return int(helper.np_dtype_to_tensor_dtype(np.dtype(kind)))

        inputs = [name if name in self.feeds else "" for name in self.names]
        while not inputs[-1]:
            inputs.pop()
        node = helper.make_node(
            self.op, inputs, list(self.outputs), "block", domain="com.microsoft", **self.attrs
        )
        values = [
            helper.make_tensor_value_info(name, code(feed.dtype), self.shapes.get(name, feed.shape))
            for name, feed in self.feeds.items()
            if name not in self.constants
        ]
        results = [
            helper.make_tensor_value_info(name, code(self.kind), [None] * rank)
            for name, rank in self.outputs.items()
        ]
        tensors = [onnx.numpy_helper.from_array(self.feeds[name], name) for name in self.constants]
        return helper.make_model(
            helper.make_graph([node], "fused", values, results, tensors),
            opset_imports=[
                helper.make_opsetid("", self.opset),
                helper.make_opsetid("com.microsoft", 1),
            ],
            ir_version=10,
        )

    def runtime_feeds(self) -> dict[str, Array]:
        """What is fed, without constants."""
        return {name: feed for name, feed in self.feeds.items() if name not in self.constants}


def normalized(proto: ModelProto) -> ModelProto:
    """The model as the matcher gets it."""
    graph = Graph(onnx.shape_inference.infer_shapes(proto, data_prop=True))
    run_passes(graph, NORMALIZE)
    return onnx.shape_inference.infer_shapes(graph.finish(), data_prop=True)


def run(proto: ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """Runs a model in ONNX Runtime without graph optimization."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, dict(feeds))]


def find(proto: ModelProto) -> list[AttentionSite | Refusal]:
    """Matches a normalized model."""
    return find_sites(Graph(proto))


def check(case: FusedNode) -> AttentionSite:
    """Normalization keeps the outputs, leaves no fused node, and the matcher finds one site, which is returned."""
    source = case.model()
    result = normalized(source)
    onnx.checker.check_model(result, full_check=True)
    assert all(node.domain in ("", "ai.onnx") for node in result.graph.node)
    feeds = case.runtime_feeds()
    for before, after, name in zip(
        run(source, feeds), run(result, feeds), case.outputs, strict=True
    ):
        np.testing.assert_allclose(after, before, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)
    (site,) = find(result)
    assert isinstance(site, AttentionSite), site
    return site


def refused(case: FusedNode) -> str:
    """The node stays, and the reason is told."""
    result = normalized(case.model())
    assert [node.op_type for node in result.graph.node] == [case.op]
    (refusal,) = find(result)
    assert isinstance(refusal, Refusal)
    assert refusal.where == "block" and refusal.hint
    return refusal.reason


def floats(*shape: int, seed: int = 0) -> Array:
    """Normal numbers."""
    return np.random.default_rng([*shape, seed]).standard_normal(shape).astype(np.float32)
