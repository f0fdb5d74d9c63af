"""Models whose attention is written as fused operators of com.microsoft already."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

WIDTH, HEADS = 64, 4


def with_contrib(layers: int = 2, *, operator: str = "MultiHeadAttention") -> ModelProto:
    """Blocks of com.microsoft attention with projections around them: x0 (B, S, E) -> the sum of all."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for i in range(layers):
        for letter, gain in (("q", 2.0), ("k", 2.0), ("v", 1.0)):
            matrix = rng.standard_normal((WIDTH, WIDTH)) * gain / np.sqrt(WIDTH)
            weights.append(numpy_helper.from_array(matrix.astype(np.float32), f"w{letter}{i}"))
            nodes.append(helper.make_node("MatMul", [f"x{i}", f"w{letter}{i}"], [f"{letter}{i}"]))
        nodes.append(
            helper.make_node(
                operator,
                [f"q{i}", f"k{i}", f"v{i}"],
                [f"o{i}"],
                f"attend_{i}",
                domain="com.microsoft",
                num_heads=HEADS,
            )
        )
        nodes.append(helper.make_node("Add", [f"x{i}", f"o{i}"], [f"x{i + 1}"]))
    value = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "sequence", WIDTH])
        for name in ("x0", f"x{layers}")
    ]
    graph = helper.make_graph(nodes, "blocks", value[:1], value[1:], weights)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    onnx.checker.check_model(model)
    return model


def feeds(length: int = 70) -> dict[str, np.ndarray]:
    """An input."""
    x = np.random.default_rng(1).standard_normal((2, length, WIDTH))
    return {"x0": x.astype(np.float32)}
