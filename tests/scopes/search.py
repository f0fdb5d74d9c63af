"""A generator in one node: com.microsoft::GreedySearch with a small random decoder as its body."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

VOCABULARY = 96

_DECODER = """
decoder (int32[B,S] input_ids, int32[B,S] position_ids, int32[B,A] attention_mask, float[2,B,4,P,16] past_0)
    => (float[B,S,96] logits, float[2,B,4,A,16] present_0)
{
    x = Gather <axis = 0> (table, input_ids)
    q_flat = MatMul (x, wq)
    k_flat = MatMul (x, wk)
    v_flat = MatMul (x, wv)
    q_split = Reshape (q_flat, split)
    k_split = Reshape (k_flat, split)
    v_split = Reshape (v_flat, split)
    q = Transpose <perm = [0, 2, 1, 3]> (q_split)
    k_new = Transpose <perm = [0, 2, 1, 3]> (k_split)
    v_new = Transpose <perm = [0, 2, 1, 3]> (v_split)
    k_past = Gather <axis = 0> (past_0, zero)
    v_past = Gather <axis = 0> (past_0, one)
    k = Concat <axis = 2> (k_past, k_new)
    v = Concat <axis = 2> (v_past, v_new)
    k_five = Unsqueeze (k, first)
    v_five = Unsqueeze (v, first)
    present_0 = Concat <axis = 0> (k_five, v_five)
    kt = Transpose <perm = [0, 1, 3, 2]> (k)
    s = MatMul (q, kt)
    s_scaled = Mul (s, scale)
    seen = Cast <to = 1> (attention_mask)
    hidden = Sub (all, seen)
    lowered = Mul (hidden, lowest)
    bias = Unsqueeze (lowered, inner)
    s_masked = Add (s_scaled, bias)
    [attend] p = Softmax <axis = -1> (s_masked)
    o = MatMul (p, v)
    o_rows = Transpose <perm = [0, 2, 1, 3]> (o)
    o_flat = Reshape (o_rows, joined)
    o_proj = MatMul (o_flat, wo)
    y = Add (x, o_proj)
    logits = MatMul (y, head)
}"""


def greedy_search() -> ModelProto:
    """Token numbers (B, S) -> sequences (B, 20)."""
    rng = np.random.default_rng(0)

    def weight(*shape: int, gain: float = 1.0) -> np.ndarray:
        return (rng.standard_normal(shape) * gain / 8).astype(np.float32)

    constants = {
        "table": weight(VOCABULARY, 64, gain=8),
        "wq": weight(64, 64, gain=3),
        "wk": weight(64, 64, gain=3),
        "wv": weight(64, 64),
        "wo": weight(64, 64),
        "head": weight(64, VOCABULARY),
        "split": np.array([0, 0, 4, 16]),
        "joined": np.array([0, 0, 64]),
        "zero": np.array(0),
        "one": np.array(1),
        "first": np.array([0]),
        "inner": np.array([1, 2]),
        "scale": np.array(0.25, np.float32),
        "all": np.array(1, np.float32),
        "lowest": np.array(-1e9, np.float32),
    }
    body = onnx.parser.parse_graph(_DECODER)
    body.initializer.extend(numpy_helper.from_array(v, name) for name, v in constants.items())
    settings = {
        "max_length": np.array([20], np.int32),
        "min_length": np.array([1], np.int32),
        "penalty": np.array([1.0], np.float32),
    }
    last = VOCABULARY - 1
    node = helper.make_node(
        "GreedySearch",
        ["input_ids", *settings],
        ["sequences"],
        "search",
        domain="com.microsoft",
        eos_token_id=last,
        pad_token_id=last,
        model_type=0,
    )
    node.attribute.append(helper.make_attribute("decoder", body))
    graph = helper.make_graph(
        [node],
        "generator",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT32, ["batch", "sequence"])],
        [helper.make_tensor_value_info("sequences", TensorProto.INT32, None)],
        [numpy_helper.from_array(value, name) for name, value in settings.items()],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)
