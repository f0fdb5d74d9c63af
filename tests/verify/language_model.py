"""A bigram language model in a handful of nodes: small, exact and easy to disturb."""

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

VOCABULARY = 32


def bigram_model(*, noise: float = 0.0, output: str = "logits", mask: bool = False) -> ModelProto:
    """Returns input_ids (B, S) [, attention_mask (B, S)] -> logits (B, S, V).

    Args:
        noise: Standard deviation of what is added to the logits' table.
        output: Name of the output.
        mask: Add the input attention_mask, which the logits do not depend on.
    """
    generator = np.random.default_rng(0)
    table = generator.normal(scale=2, size=(VOCABULARY, VOCABULARY))
    table += noise * generator.normal(size=table.shape)
    tokens = ["batch", "sequence"]
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, tokens)]
    nodes = [helper.make_node("Gather", ["table", "input_ids"], [output])]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, [*tokens, VOCABULARY])]
    if mask:
        inputs.append(helper.make_tensor_value_info("attention_mask", TensorProto.INT64, tokens))
        nodes.append(helper.make_node("Identity", ["attention_mask"], ["kept"]))
        outputs.append(helper.make_tensor_value_info("kept", TensorProto.INT64, tokens))
    graph = helper.make_graph(
        nodes,
        "bigrams",
        inputs,
        outputs,
        [numpy_helper.from_array(table.astype(np.float32), "table")],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
