"""A block without its roundings: half floats become float32, and pairs that quantize a value are passed over.

What a block computes shows without them; what they cost is measured elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from qfa_passes.core.site import AttentionSite, Operand
from qfa_passes.core.view import View, ViewOp, Views
from qfa_passes.core.walk import all_graphs

HALVES: Final = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_TYPE_ATTRIBUTES: Final = ("to", "dtype", "softmax_precision")


def widen(proto: ModelProto) -> None:
    """Makes every half float of a model a float32, in place; its tensors hold their bytes themselves."""
    for graph in all_graphs(proto):
        for value in (*graph.input, *graph.output, *graph.value_info):
            kind = value.type.tensor_type
            if kind.elem_type in HALVES:
                kind.elem_type = TensorProto.FLOAT
        for tensor in graph.initializer:
            _widen_tensor(tensor)
        for node in graph.node:
            _widen_node(node)
    for function in proto.functions:
        for node in function.node:
            _widen_node(node)


def round_constants(proto: ModelProto, types: Mapping[str, int], fixed: Collection[str]) -> None:
    """Lets what a widened model computes of nothing but ``fixed`` values be rounded as it was, in place.

    A scale that is computed in half precision is the rounded number: that is no loss but what the model says.

    Args:
        proto: The model.
        types: ONNX element types of its values before, by name.
        fixed: Names of inputs that are the same in every run.
    """
    known = {*fixed, *(tensor.name for tensor in proto.graph.initializer)}
    nodes: list[NodeProto] = []
    for node in proto.graph.node:
        nodes.append(node)
        read = node.input[:1] if node.op_type == "CastLike" else node.input  # the other says a type
        if any(name not in known for name in read if name):
            continue
        known.update(node.output)
        for position, name in enumerate(node.output):
            kind = types.get(name)
            if kind not in HALVES:
                continue
            wide, half = f"{name}/wide", f"{name}/half"
            node.output[position] = wide
            nodes.append(helper.make_node("Cast", [wide], [half], to=kind))
            nodes.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _widen_node(node: NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name in _TYPE_ATTRIBUTES and attribute.i in HALVES:
            attribute.i = TensorProto.FLOAT
        if attribute.HasField("t"):
            _widen_tensor(attribute.t)


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in HALVES:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def pass_pairs(proto: ModelProto) -> None:
    """Lets what a QuantizeLinear/DequantizeLinear pair gives be what it takes, in place."""
    quantized = {
        node.output[0]: node.input[0]
        for node in proto.graph.node
        if node.op_type == "QuantizeLinear"
    }
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in quantized:
            node.op_type = "Identity"
            node.input[:] = [quantized[node.input[0]]]
            del node.attribute[:]


def widened_site(site: AttentionSite) -> AttentionSite:
    """The site as it stands in a widened model."""

    def operand(given: Operand) -> Operand:
        return replace(given, views=_widened_views(given.views))

    terms = tuple(replace(term, views=_widened_views(term.views)) for term in site.mask.terms)
    return replace(
        site,
        query=operand(site.query),
        key=operand(site.key),
        value=operand(site.value),
        mask=replace(site.mask, terms=terms),
        output_views=_widened_views(site.output_views),
        dtype=TensorProto.FLOAT if site.dtype in HALVES else site.dtype,
    )


def _widened_views(views: Views) -> Views:
    return tuple(
        View(ViewOp.CAST, (TensorProto.FLOAT,))
        if view.op is ViewOp.CAST and view.numbers[0] in HALVES
        else view
        for view in views
    )
