"""How the time of matching grows with the number of nodes."""

from __future__ import annotations

import time

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_SIZES = (1_000, 2_500, 5_000, 10_000, 20_000, 40_000)
_WIDTH, _HEADS = 32, 4


def print_growth() -> None:
    """Prints the time for models full of attention and nearly without: on the clock, and of the processor alone."""
    import qfa_passes
    from qfa_passes.core.site import AttentionSite

    print("Reading, normalizing and matching a model, in one process, best of two\n")
    print("| graph | nodes | blocks | seconds | processor seconds | microseconds a node |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, every in (("attention in every layer", 1), ("attention in every 16th layer", 16)):
        for size in _SIZES:
            model, blocks = repeated_layers(size, every)
            clock = processor = float("inf")
            for _ in range(2):
                start, busy = time.perf_counter(), time.process_time()
                found = qfa_passes.inspect(model)
                clock = min(clock, time.perf_counter() - start)
                processor = min(processor, time.process_time() - busy)
            assert sum(isinstance(entry, AttentionSite) for entry in found) == blocks
            count = len(model.graph.node)
            print(
                f"| {name} | {count} | {blocks} | {clock:.2f} | {processor:.2f} "
                f"| {1e6 * processor / count:.0f} |",
                flush=True,
            )


def repeated_layers(size: int, every: int) -> tuple[onnx.ModelProto, int]:
    """A model of about ``size`` nodes, with attention in each ``every``-th layer; and how many blocks it has."""
    nodes: list[onnx.NodeProto] = []
    weights = {
        "w": np.eye(_WIDTH, dtype=np.float32),
        "scale": np.float32(0.5),
        "split": np.array([0, 0, _HEADS, _WIDTH // _HEADS]),
        "join": np.array([0, 0, _WIDTH]),
    }
    state, layer, blocks = "x", 0, 0
    while len(nodes) < size:
        if layer % every == 0:
            state = _attention(nodes, state, f"l{layer}")
            blocks += 1
        state = _feed_forward(nodes, state, f"l{layer}")
        layer += 1
    shape = ["batch", "length", _WIDTH]
    mask = helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["batch", 1, 1, "length"])
    graph = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape), mask],
        [helper.make_tensor_value_info(state, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model, blocks


def _attention(nodes: list[onnx.NodeProto], state: str, layer: str) -> str:
    def add(op: str, inputs: list[str], output: str, **attributes: object) -> str:
        name = f"{layer}.{output}"
        nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def heads(which: str, perm: list[int]) -> str:
        projected = add("MatMul", [state, "w"], f"{which}_proj")
        apart = add("Reshape", [projected, "split"], f"{which}_split")
        return add("Transpose", [apart], which, perm=perm)

    query, key, value = (
        heads("q", [0, 2, 1, 3]),
        heads("k", [0, 2, 3, 1]),
        heads("v", [0, 2, 1, 3]),
    )
    scaled = add("Mul", [add("MatMul", [query, key], "qk"), "scale"], "scaled")
    weights = add("Softmax", [add("Add", [scaled, "mask"], "masked")], "softmax", axis=-1)
    context = add("Transpose", [add("MatMul", [weights, value], "pv")], "turned", perm=[0, 2, 1, 3])
    joined = add("Reshape", [context, "join"], "joined")
    return add("Add", [state, add("MatMul", [joined, "w"], "out_proj")], "attended")


def _feed_forward(nodes: list[onnx.NodeProto], state: str, layer: str) -> str:
    current = state
    for index, op in enumerate(("MatMul", "Relu", "MatMul", "Sigmoid", "Tanh", "Neg", "Add")):
        name = f"{layer}.ff{index}"
        inputs = (
            [current, "w"] if op == "MatMul" else [current, state] if op == "Add" else [current]
        )
        nodes.append(helper.make_node(op, inputs, [name], name=name))
        current = name
    return current


if __name__ == "__main__":
    print_growth()
