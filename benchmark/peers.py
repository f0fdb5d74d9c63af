"""Attention as each peer offers it: one-node models of ONNX Runtime, and ours.

Every peer gets the same Q (B, H, S, D), K and V (B, Hkv, S, D) in float32, in its native layout, and gives its native
output. Inputs that a peer cannot take (grouped heads in MultiHeadAttention) make it sit out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

import qfa_passes
from qfa_passes.core import opspec

Array = npt.NDArray[Any]
Run = Callable[[], Array]


@dataclass(frozen=True, slots=True)
class Shape:
    """One case: H, Hkv, S = T, D, and whether it is causal; B is 1."""

    heads: int
    kv_heads: int
    length: int
    channels: int
    causal: bool

    @property
    def label(self) -> str:
        """Short name."""
        mask = "causal" if self.causal else "full"
        return f"{self.heads}/{self.kv_heads} D={self.channels} S={self.length} {mask}"

    @property
    def flops(self) -> float:
        """Multiplications and additions of both products, half of them if causal."""
        return 4.0 * self.length**2 * self.channels * self.heads * (0.5 if self.causal else 1.0)


def operands(shape: Shape, seed: int = 0) -> tuple[Array, Array, Array]:
    """Unit-normal Q, K and V."""
    random = np.random.default_rng(seed)
    size = (1, shape.heads, shape.length, shape.channels)
    kv_size = (1, shape.kv_heads, shape.length, shape.channels)
    return tuple(
        random.standard_normal(each, dtype=np.float32) for each in (size, kv_size, kv_size)
    )  # type: ignore[return-value]


def ours(shape: Shape, threads: int) -> Run:
    """QuantFlashAttention int8, dynamic scales: float32 in, float32 out."""
    node = helper.make_node(
        opspec.OP_TYPE,
        ["q", "k", "v"],
        ["y"],
        domain=opspec.DOMAIN,
        num_heads=shape.heads,
        kv_num_heads=shape.kv_heads,
        scale=shape.channels**-0.5,
        is_causal=int(shape.causal),
        compute_format="int8",
        scale_mode="dynamic",
        rotate="none",
        schema_version=opspec.SCHEMA_VERSION,
    )
    return _bhsd(node, shape, threads, library=True)


def attention_23(shape: Shape, threads: int) -> Run:
    """The standard operator in float32."""
    scale = shape.channels**-0.5
    node = helper.make_node(
        "Attention", ["q", "k", "v"], ["y"], is_causal=int(shape.causal), scale=scale
    )
    return _bhsd(node, shape, threads)


def multi_head_attention(shape: Shape, threads: int) -> Run | None:
    """com.microsoft.MultiHeadAttention in float32 (flash attention where it has no mask)."""
    if shape.heads != shape.kv_heads:
        return None
    node = helper.make_node(
        "MultiHeadAttention",
        ["q", "k", "v"],
        ["y"],
        domain="com.microsoft",
        num_heads=shape.heads,
        unidirectional=int(shape.causal),
    )
    q, k, v = (_merged(array) for array in operands(shape))
    return _runner(node, {"q": q, "k": k, "v": v}, threads)


def group_query_attention(shape: Shape, threads: int) -> Run:
    """com.microsoft.GroupQueryAttention in float32 (flash attention)."""
    node = helper.make_node(
        "GroupQueryAttention",
        ["q", "k", "v", "", "", "lengths", "total"],
        ["y", "present_k", "present_v"],
        domain="com.microsoft",
        num_heads=shape.heads,
        kv_num_heads=shape.kv_heads,
        causal=int(shape.causal),
    )
    q, k, v = (_merged(array) for array in operands(shape))
    lengths = np.array([shape.length - 1], dtype=np.int32)
    total = np.array(shape.length, dtype=np.int32)
    return _runner(node, {"q": q, "k": k, "v": v, "lengths": lengths, "total": total}, threads)


def unfused(shape: Shape, threads: int) -> Run:
    """MatMul, Softmax, MatMul in float32, as an exporter writes them."""
    group = shape.heads // shape.kv_heads
    q, k, v = operands(shape)
    k, v = (np.repeat(array, group, axis=1) for array in (k, v))
    nodes = [
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "kt"], ["s"]),
        helper.make_node("Mul", ["s", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked" if shape.causal else "scaled"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["y"]),
    ]
    mask = np.where(np.tri(shape.length, dtype=bool), 0, -np.inf).astype(np.float32)
    constants = {"scale": np.array(shape.channels**-0.5, np.float32), "mask": mask}
    return _runner(nodes, {"q": q, "k": k, "v": v}, threads, constants)


PEERS: Final[dict[str, Callable[[Shape, int], Run | None]]] = {
    "ORT Attention-23": attention_23,
    "ORT MultiHeadAttention": multi_head_attention,
    "ORT GroupQueryAttention": group_query_attention,
    "ORT unfused": unfused,
}
"""Float32 attention of ONNX Runtime; ratios are against the fastest of them."""


def _merged(array: Array) -> Array:
    batch, heads, rows, channels = array.shape
    return np.ascontiguousarray(array.transpose(0, 2, 1, 3)).reshape(batch, rows, heads * channels)


def _bhsd(node: onnx.NodeProto, shape: Shape, threads: int, *, library: bool = False) -> Run:
    q, k, v = operands(shape)
    return _runner(node, {"q": q, "k": k, "v": v}, threads, library=library)


def _runner(
    nodes: onnx.NodeProto | list[onnx.NodeProto],
    feeds: dict[str, Array],
    threads: int,
    constants: dict[str, Array] | None = None,
    *,
    library: bool = False,
) -> Run:
    nodes = nodes if isinstance(nodes, list) else [nodes]
    inputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in feeds.items()
    ]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in nodes[-1].output
        if name
    ]
    initializers = [
        onnx.numpy_helper.from_array(array, name) for name, array in (constants or {}).items()
    ]
    graph = helper.make_graph(nodes, "peer", inputs, outputs, initializers)
    imports = [
        helper.make_opsetid(domain, version)
        for domain, version in (
            ("", 23),
            ("com.microsoft", 1),
            (opspec.DOMAIN, opspec.DOMAIN_VERSION),
        )
    ]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Idle workers of one session would spin on the processors that the next one is measured on.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if library:
        options.register_custom_ops_library(qfa_passes.get_library_path())
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    for value in session.get_outputs():
        binding.bind_output(value.name)

    def run() -> Array:
        session.run_with_iobinding(binding)
        return np.asarray(binding.get_outputs()[0].numpy())

    return run
