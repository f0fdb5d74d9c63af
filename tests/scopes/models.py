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
