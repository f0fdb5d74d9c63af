"""Q, K and V of a site, and what goes with them, become inputs of the operator."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.core.site import AttentionSite
from qfa_passes.core.view import View, ViewOp, merge_heads, split_heads
from qfa_passes.fuse.element_types import FLOAT_TYPES, as_int64, element_type, widened
from qfa_passes.graph.edit import emit, emit_views
from qfa_passes.graph.ir import Graph


def has_flat_heads(site: AttentionSite) -> bool:
    """True if Q, K, V and output are all (B, rows, heads * channels), a layout that the operator takes as it is."""
    return (
        site.query.views == split_heads(site.num_heads, site.qk_channels)
        and site.key.views == split_heads(site.kv_num_heads, site.qk_channels)
        and site.value.views == split_heads(site.kv_num_heads, site.v_channels)
        and site.output_views == merge_heads(site.num_heads, site.v_channels)
    )


def lower_operands(
    graph: Graph, tensors: Mapping[str, gs.Tensor], site: AttentionSite, *, flat: bool
) -> dict[str, gs.Tensor]:
    """Appends the nodes of the views of Q, K and V; returns the operator inputs that carry them."""
    lowered: dict[str, gs.Tensor] = {}
    for name, operand, heads, channels in (
        ("query", site.query, site.num_heads, site.qk_channels),
        ("key", site.key, site.kv_num_heads, site.qk_channels),
        ("value", site.value, site.kv_num_heads, site.v_channels),
    ):
        views = () if flat else operand.views
        tensor = emit_views(graph, tensors[operand.tensor], views, f"{site.name}/{name}")
        if tensor.shape is None:  # the function body depends on the number of axes
            rows: list[object] = [None, None] if flat else [None, heads, None]
            tensor.shape = [*rows, heads * channels if flat else channels]
        lowered[name] = tensor
    return lowered


def lower_extras(
    graph: Graph, tensors: Mapping[str, gs.Tensor], site: AttentionSite
) -> dict[str, gs.Tensor]:
    """Returns the operator inputs for past keys and values, lengths and sink, in the types that it takes."""
    inputs: dict[str, gs.Tensor] = {}
    if site.cache is not None:
        inputs["past_key"] = tensors[site.cache.past_key]
        inputs["past_value"] = tensors[site.cache.past_value]
    if site.mask.kv_length is not None:
        lengths = tensors[site.mask.kv_length]
        inputs["kv_length"] = as_int64(graph, lengths, f"{site.name}/kv_length")
    if site.sink is not None:
        sink = tensors[site.sink]
        if sink.shape is None or len(sink.shape) != 1:
            sink = emit_views(graph, sink, (View(ViewOp.RESHAPE, (-1,)),), f"{site.name}/sink")
        known = element_type(sink) in FLOAT_TYPES
        inputs["sink"] = sink if known else widened(graph, sink, f"{site.name}/sink")
    return inputs


def key_length(graph: Graph, inputs: Mapping[str, gs.Tensor], stem: str) -> gs.Tensor:
    """T, past keys included, as a vector of one; rows are the last axis but one in both layouts."""
    rows: dict[str, object] = {"start": -2, "end": -1}
    lengths = [
        emit(graph, "Shape", [inputs[name]], f"{stem}/{name}_rows", dtype=np.int64, attrs=rows)
        for name in ("key", "past_key")
        if name in inputs
    ]
    if len(lengths) == 1:
        return lengths[0]
    return emit(graph, "Add", lengths, f"{stem}/all_key_rows", dtype=np.int64)
