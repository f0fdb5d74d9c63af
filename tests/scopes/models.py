"""Decoders whose attention is not in the main graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from tests.reference.decoders import Decoder

DECODER = Decoder()
OTHER = Decoder(layers=1, causal=False)


def bool_value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.BOOL, [])


def int_value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT64, [])


def body_of(model: ModelProto, name: str, output: str) -> GraphProto:
    """The nodes of a model as a body that captures its inputs and initializers by name."""
    body = GraphProto(name=name)
    body.node.extend(model.graph.node)
    body.output.extend(model.graph.output)
    for node in body.node:
        for position, value in enumerate(node.output):
            if value == body.output[0].name:
                node.output[position] = output
    body.output[0].name = output
    return body


def shell_of(models: Sequence[ModelProto], outputs: Sequence[str]) -> ModelProto:
    """A model without nodes: inputs and weights of some models, each weight once."""
    first = models[0]
    shell = ModelProto(ir_version=first.ir_version)
    shell.opset_import.extend(first.opset_import)
    shell.graph.name = "outer"
    shell.graph.input.extend(first.graph.input)
    known: set[str] = set()
    for model in models:
        for tensor in model.graph.initializer:
            if tensor.name not in known:
                shell.graph.initializer.add().CopyFrom(tensor)
                known.add(tensor.name)
    for name in outputs:
        value = shell.graph.output.add()
        value.CopyFrom(first.graph.output[0])
        value.name = name
    return shell


def merged(then_model: ModelProto, else_model: ModelProto, *, flag: str = "flag") -> ModelProto:
    """Two models in one, as merged decoders are: an If on a flag chooses; weights are shared outside."""
    model = shell_of([then_model, else_model], ["result"])
    model.graph.input.append(bool_value(flag))
    model.graph.node.append(
        helper.make_node(
            "If",
            [flag],
            ["result"],
            "choice",
            then_branch=body_of(then_model, "yes", "then_result"),
            else_branch=body_of(else_model, "no", "else_result"),
        )
    )
    return model


def prefixed(model: ModelProto, prefix: str) -> ModelProto:
    """The model with other names for everything but its input."""
    result: ModelProto = onnx.compose.add_prefix(model, prefix)
    for node in result.graph.node:
        for position, name in enumerate(node.input):
            if name == f"{prefix}x0":
                node.input[position] = "x0"
    result.graph.input[0].name = "x0"
    return result


def merged_decoder() -> ModelProto:
    """Two causal blocks in one branch, one block without mask in the other; they share the weights of layer 0."""
    return merged(DECODER.model(), OTHER.model())


def flagged(value: bool, **more: bool) -> dict[str, np.ndarray]:
    """An input of a merged decoder."""
    flags = {name: np.array(flag) for name, flag in {"flag": value, **more}.items()}
    return {**DECODER.feeds(), **flags}


def inner_nodes(model: ModelProto) -> list[NodeProto]:
    """Every node of a model, of its bodies too."""
    found: list[NodeProto] = []
    pending = list(model.graph.node)
    while pending:
        node = pending.pop(0)
        found.append(node)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                pending.extend(attribute.g.node)
    return found


def cached_loop(turns: int = 6) -> ModelProto:
    """A decoder that feeds itself: every turn of a Loop appends a key and a value to a cache that starts empty."""
    body = onnx.parser.parse_graph("""
        turn_body (int64 turn, bool going, float["B", 4, P, 16] past_k, float["B", 4, P, 16] past_v,
                   float["B", 1, 64] token)
            => (bool still, float["B", 4, T, 16] keys, float["B", 4, T, 16] values,
                float["B", 1, 64] next, float["B", 1, 64] said)
        {
            even = LayerNormalization <axis = -1> (token, gain)
            q_flat = MatMul (even, wq)
            k_flat = MatMul (even, wk)
            v_flat = MatMul (even, wv)
            q_split = Reshape (q_flat, split)
            k_split = Reshape (k_flat, split)
            v_split = Reshape (v_flat, split)
            q = Transpose <perm = [0, 2, 1, 3]> (q_split)
            k = Transpose <perm = [0, 2, 1, 3]> (k_split)
            v = Transpose <perm = [0, 2, 1, 3]> (v_split)
            keys = Concat <axis = 2> (past_k, k)
            values = Concat <axis = 2> (past_v, v)
            kt = Transpose <perm = [0, 1, 3, 2]> (keys)
            s = MatMul (q, kt)
            s_scaled = Mul (s, scale)
            [attend] p = Softmax <axis = -1> (s_scaled)
            o = MatMul (p, values)
            o_rows = Transpose <perm = [0, 2, 1, 3]> (o)
            o_flat = Reshape (o_rows, joined)
            o_proj = MatMul (o_flat, wo)
            next = Add (token, o_proj)
            said = Identity (next)
            still = Identity (going)
        }""")
    model = shell_of([DECODER.model()], ["last"])
    del model.graph.initializer[:]
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((64, 64)) / 8 for name in ("wq", "wk", "wv", "wo")}
    constants = {
        **{name: value.astype(np.float32) for name, value in weights.items()},
        "split": np.array([0, 0, 4, 16]),
        "joined": np.array([0, 0, 64]),
        "scale": np.array(0.25, np.float32),
        "gain": np.ones(64, np.float32),
        "turns": np.array(turns),
        "empty": np.zeros((2, 4, 0, 16), np.float32),
    }
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in constants.items()
    )
    model.graph.input[0].CopyFrom(
        helper.make_tensor_value_info("x0", TensorProto.FLOAT, [2, 1, 64])
    )
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("last", TensorProto.FLOAT, [2, 1, 64])
    )
    outputs = ["all_keys", "all_values", "last", "all_said"]
    node = helper.make_node("Loop", ["turns", "", "empty", "empty", "x0"], outputs, "turning")
    node.attribute.append(helper.make_attribute("body", body))
    model.graph.node.append(node)
    said = helper.make_tensor_value_info("all_said", TensorProto.FLOAT, None)
    model.graph.output.append(said)
    return model


def scanned() -> ModelProto:
    """A Scan over the layers of a stack: every turn takes the projections of one layer."""
    body = onnx.parser.parse_graph("""
        layer (float["B", "S", 64] x, float[64, 64] wq, float[64, 64] wk, float[64, 64] wv)
            => (float["B", "S", 64] y)
        {
            even = LayerNormalization <axis = -1> (x, gain)
            q_flat = MatMul (even, wq)
            k_flat = MatMul (even, wk)
            v_flat = MatMul (even, wv)
            q_split = Reshape (q_flat, split)
            k_split = Reshape (k_flat, split)
            v_split = Reshape (v_flat, split)
            q = Transpose <perm = [0, 2, 1, 3]> (q_split)
            kt = Transpose <perm = [0, 2, 3, 1]> (k_split)
            v = Transpose <perm = [0, 2, 1, 3]> (v_split)
            s = MatMul (q, kt)
            s_scaled = Mul (s, scale)
            [attend] p = Softmax <axis = -1> (s_scaled)
            o = MatMul (p, v)
            o_rows = Transpose <perm = [0, 2, 1, 3]> (o)
            o_flat = Reshape (o_rows, joined)
            y = Add (x, o_flat)
        }""")
    model = shell_of([DECODER.model()], ["last"])
    del model.graph.initializer[:]
    rng = np.random.default_rng(0)
    constants = {
        **{
            f"{name}_all": (rng.standard_normal((3, 64, 64)) * gain / 8).astype(np.float32)
            for name, gain in (("wq", 2), ("wk", 2), ("wv", 1))
        },
        "split": np.array([0, 0, 4, 16]),
        "joined": np.array([0, 0, 64]),
        "scale": np.array(0.25, np.float32),
        "gain": np.ones(64, np.float32),
    }
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in constants.items()
    )
    inputs = ["x0", "wq_all", "wk_all", "wv_all"]
    node = helper.make_node("Scan", inputs, ["last"], "stack", num_scan_inputs=3)
    node.attribute.append(helper.make_attribute("body", body))
    model.graph.node.append(node)
    return model


def branch_in_a_branch() -> ModelProto:
    """A merged decoder inside a branch of another If; the other branch does nothing."""
    inside = merged_decoder()
    model = shell_of([inside], ["final"])
    model.graph.input.append(bool_value("any"))
    nothing = GraphProto(name="nothing")
    nothing.node.append(helper.make_node("Identity", ["x0"], ["same"]))
    nothing.output.append(model.graph.output[0])
    nothing.output[0].name = "same"
    model.graph.node.append(
        helper.make_node(
            "If",
            ["any"],
            ["final"],
            "maybe",
            then_branch=body_of(inside, "some", "some_result"),
            else_branch=nothing,
        )
    )
    return model
