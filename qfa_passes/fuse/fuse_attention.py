"""Attention blocks become one QuantFlashAttention node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from qfa_passes.core import opspec
from qfa_passes.core.formats import ScaleMode
from qfa_passes.core.passes import Contract
from qfa_passes.core.plan import SitePlan, StaticScales
from qfa_passes.core.site import AttentionSite
from qfa_passes.core.view import merge_heads, split_heads
from qfa_passes.fuse.element_types import FLOAT_TYPES, as_int64, element_type, widened
from qfa_passes.fuse.lower_masks import lower_masks
from qfa_passes.graph.edit import constant, emit, emit_views, replace_producer
from qfa_passes.graph.graph_pass import GraphPass
from qfa_passes.graph.ir import Graph, producer


class FuseAttention(GraphPass):
    """Replaces each planned block by the operator.

    Before: ``s = MatMul(q, kt)``, ``m = Mul(s, scale)``, ``a = Add(m, mask)``, ``p = Softmax(a)``,
    ``o = MatMul(p, v)``.
    After: ``o = ai.qfa.QuantFlashAttention<num_heads, kv_num_heads, scale, ...>(q, k, v, , mask)``.
    """

    name: ClassVar[str] = "fuse-attention"
    contract: ClassVar[Contract] = Contract.QUANTIZES

    def __init__(
        self,
        sites: Sequence[tuple[AttentionSite, SitePlan]],
        k_means: Mapping[str, npt.NDArray[np.float32]],
    ) -> None:
        """Takes the sites with their plan, and K shifts (Hkv, D) by site name."""
        self._sites, self._k_means = sites, k_means

    def run(self, graph: Graph) -> int:
        """Fuses every site; what computed the old outputs becomes dead."""
        for site, plan in self._sites:
            fuse_site(graph, with_scales(site, plan.scales), plan, self._k_means.get(site.name))
        return len(self._sites)


def fuse_site(
    graph: Graph, site: AttentionSite, plan: SitePlan, k_mean: npt.NDArray[np.float32] | None
) -> gs.Node:
    """Makes the operator node of one site the producer of the site's output."""
    tensors = graph.tensors()
    flat = has_flat_heads(site)
    inputs = _operands(graph, tensors, site, flat=flat)
    inputs.update(_cache_and_lengths(graph, tensors, site))
    length = None
    if any(term.fewer_keys for term in site.mask.terms):
        length = _key_length(graph, inputs, site.name)
    inputs.update(lower_masks(graph, tensors, site, length))
    if plan.scale_mode is ScaleMode.STATIC:
        for name, operand in (
            ("q_scale", site.query),
            ("k_scale", site.key),
            ("v_scale", site.value),
        ):
            steps = np.array(operand.scale, dtype=np.float32)
            inputs[name] = constant(
                graph, f"{site.name}/{name}", steps.reshape(()) if steps.size == 1 else steps
            )
    if k_mean is not None:
        inputs["k_mean"] = constant(graph, f"{site.name}/k_mean", k_mean.astype(np.float32))
    node = gs.Node(
        opspec.OP_TYPE,
        graph.new_name(f"{site.name}/{opspec.OP_TYPE}"),
        _attributes(site, plan),
        _positional(inputs),
        [],
        domain=opspec.DOMAIN,
    )
    _outputs(graph, tensors, site, node, flat=flat)
    graph.add(node)
    return node


def has_flat_heads(site: AttentionSite) -> bool:
    """True if Q, K, V and output are all (B, rows, heads * channels), a layout that the operator takes as it is."""
    return (
        site.query.views == split_heads(site.num_heads, site.qk_channels)
        and site.key.views == split_heads(site.kv_num_heads, site.qk_channels)
        and site.value.views == split_heads(site.kv_num_heads, site.v_channels)
        and site.output_views == merge_heads(site.num_heads, site.v_channels)
    )


def with_scales(site: AttentionSite, scales: StaticScales | None) -> AttentionSite:
    """The site with the plan's static steps, which may be one per head, on its operands."""
    if scales is None:
        return site
    return replace(
        site,
        query=replace(site.query, scale=scales.query),
        key=replace(site.key, scale=scales.key),
        value=replace(site.value, scale=scales.value),
    )


def _operands(
    graph: Graph, tensors: Mapping[str, gs.Tensor], site: AttentionSite, *, flat: bool
) -> dict[str, gs.Tensor]:
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


def _cache_and_lengths(
    graph: Graph, tensors: Mapping[str, gs.Tensor], site: AttentionSite
) -> dict[str, gs.Tensor]:
    inputs: dict[str, gs.Tensor] = {}
    if site.cache is not None:
        inputs["past_key"] = tensors[site.cache.past_key]
        inputs["past_value"] = tensors[site.cache.past_value]
    if site.mask.kv_length is not None:
        lengths = tensors[site.mask.kv_length]
        inputs["kv_length"] = as_int64(graph, lengths, f"{site.name}/kv_length")
    if site.sink is not None:
        sink = tensors[site.sink]
        known = element_type(sink) in FLOAT_TYPES
        inputs["sink"] = sink if known else widened(graph, sink, f"{site.name}/sink")
    return inputs


def _key_length(graph: Graph, inputs: Mapping[str, gs.Tensor], stem: str) -> gs.Tensor:
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


def _outputs(
    graph: Graph,
    tensors: Mapping[str, gs.Tensor],
    site: AttentionSite,
    node: gs.Node,
    *,
    flat: bool,
) -> None:
    """Makes the node the producer of the site's output, through views if need be, and of its present values."""
    if flat or not site.output_views:
        replace_producer(tensors[site.output], node)
    else:
        name = graph.new_name(f"{site.name}/attended")
        attended = gs.Variable(name, dtype=tensors[site.output].dtype)
        node.outputs.append(attended)
        last = emit_views(graph, attended, site.output_views, f"{site.name}/output").inputs[0]
        last.outputs.clear()
        replace_producer(tensors[site.output], last)
    present = (
        (None, None) if site.cache is None else (site.cache.present_key, site.cache.present_value)
    )
    # Blocks may share their keys: the first that is fused gives the present values to all.
    wanted = [name if name and not _is_fused(producer(tensors[name])) else None for name in present]
    while wanted and wanted[-1] is None:
        wanted.pop()
    for present_name in wanted:
        if present_name is None:
            node.outputs.append(gs.Variable.empty())
        else:
            replace_producer(tensors[present_name], node)


def _is_fused(node: gs.Node | None) -> bool:
    return node is not None and (node.domain, node.op) == (opspec.DOMAIN, opspec.OP_TYPE)


def _attributes(site: AttentionSite, plan: SitePlan) -> dict[str, object]:
    return {
        "num_heads": site.num_heads,
        "kv_num_heads": site.kv_num_heads,
        "scale": float(np.float32(site.scale)),
        "is_causal": int(site.mask.causal),
        "compute_format": plan.format.value,
        "scale_mode": plan.scale_mode.value,
        "rotate": plan.rotation.value,
        "schema_version": opspec.SCHEMA_VERSION,
        "softcap": float(np.float32(site.softcap)),
        "queries_at_end": int(site.mask.queries_at_end),
        "left_window": site.mask.left_window,
        "right_window": site.mask.right_window,
    }


def _positional(inputs: Mapping[str, gs.Tensor]) -> list[gs.Tensor]:
    last = max(opspec.input_index(name) for name in inputs)
    return [inputs.get(spec.name, gs.Variable.empty()) for spec in opspec.INPUTS[: last + 1]]
