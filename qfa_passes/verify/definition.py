"""The operator by its definition in numpy, as a node of the reference evaluator of onnx.

A replacement is proven with it rather than with the kernels: what is proven is then the graph that the passes wrote,
its views, masks and attributes, in float64; kernels are held to the same definition by tests of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from qfa_passes.core import opspec
from qfa_passes.quant.attention import attention_float64
from qfa_passes.quant.masking import Masking

Array = npt.NDArray[Any]


class QuantFlashAttention(OpRun):
    """Attention in float64, whatever format the node asks for.

    Attributes:
        seen: After a run, (B, H, S, T): which keys each query sees.
        level: After a run, (B, H, S, 1): the largest bias among the seen keys.
    """

    op_domain = opspec.DOMAIN
    seen: npt.NDArray[np.bool_]
    level: npt.NDArray[np.float32]

    def _run(self, *given: Array | None, **_: object) -> tuple[Array, ...]:
        names = [spec.name for spec in opspec.INPUTS]
        inputs = {
            name: array for name, array in zip(names, given, strict=False) if array is not None
        }
        attributes = {spec.name: spec.default for spec in opspec.ATTRIBUTES}
        for attribute in self.onnx_node.attribute:
            attributes[attribute.name] = helper.get_attribute_value(attribute)
        return self._attend(inputs, attributes)

    def _attend(
        self, inputs: Mapping[str, Array], attributes: Mapping[str, Any]
    ) -> tuple[Array, ...]:
        heads, kv_heads = int(attributes["num_heads"]), int(attributes["kv_num_heads"])
        query = _split(inputs["query"], heads)
        key, value = _split(inputs["key"], kv_heads), _split(inputs["value"], kv_heads)
        if (query.shape[1], key.shape[1], value.shape[1]) != (heads, kv_heads, kv_heads):
            raise ValueError(
                f"Q, K and V have {query.shape[1]}, {key.shape[1]} and {value.shape[1]} heads,"
                f" the node says {heads} and {kv_heads}"
            )
        _check_vectors(inputs, heads, len(query))
        if "past_key" in inputs:
            key = np.concatenate((inputs["past_key"], key), axis=2)
            value = np.concatenate((inputs["past_value"], value), axis=2)
        masking = Masking(
            causal=bool(attributes["is_causal"]),
            mask=inputs.get("attn_mask"),
            bias=inputs.get("attn_bias"),
            queries_at_end=bool(attributes["queries_at_end"]),
            left_window=int(attributes["left_window"]),
            right_window=int(attributes["right_window"]),
            kv_length=inputs.get("kv_length"),
        )
        sink = inputs.get("sink")
        sinks = ~np.isneginf(np.full(1, -np.inf) if sink is None else sink).reshape(-1, 1, 1)
        shape = (*query.shape[:3], key.shape[2])
        self.seen = counts = masking.visible(shape)
        some = self.seen.any(axis=-1, keepdims=True)
        self.level = np.where(some, np.float32(0), np.float32(-np.inf))
        plain = Masking(mask=counts)
        if masking.bias is not None:
            bias = np.broadcast_to(masking.bias, shape)
            self.level = np.where(self.seen, bias, -np.inf).max(
                axis=-1, keepdims=True, initial=-np.inf
            )
            counts, _, averages = masking.resolve(shape, sinks)
            query = np.where(averages, 0, query)
            plain = Masking(mask=counts, bias=np.where(averages | ~counts, 0, bias))
        output = attention_float64(
            query,
            key,
            value,
            scale=float(attributes["scale"]),
            masking=plain,
            softcap=float(attributes["softcap"]),
            sink=sink,
        )
        if inputs["query"].ndim == 3:
            output = output.transpose(0, 2, 1, 3).reshape(*inputs["query"].shape[:2], -1)
        kind = inputs["query"].dtype
        return (output.astype(kind), key, value)[: len(self.onnx_node.output)]


def _split(array: Array, heads: int) -> Array:
    """(B, rows, heads * channels) as (B, heads, rows, channels)."""
    if array.ndim == 4:
        return array
    return array.reshape(*array.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def _check_vectors(inputs: Mapping[str, Array], heads: int, batch: int) -> None:
    for name, most in (("sink", heads), ("kv_length", batch)):
        given = inputs.get(name)
        if given is not None and given.shape not in ((1,), (most,)):
            raise ValueError(f"{name} has shape {given.shape}, expected ({most},)")


def run_by_definition(
    proto: ModelProto, feeds: Mapping[str, Array]
) -> tuple[dict[str, Array], QuantFlashAttention]:
    """Runs a model of one operator node; returns its outputs by name, and the node after its run."""
    plain = ModelProto()
    plain.CopyFrom(proto)
    del plain.functions[:]
    evaluator = ReferenceEvaluator(plain, new_ops=[QuantFlashAttention])
    names = [value.name for value in plain.graph.input]
    outputs = evaluator.run(None, {name: feeds[name] for name in names})
    nodes = [node for node in evaluator.rt_nodes_ if isinstance(node, QuantFlashAttention)]
    return dict(zip(evaluator.output_names, outputs, strict=True)), nodes[0]
