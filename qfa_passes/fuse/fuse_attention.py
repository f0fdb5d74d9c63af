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
from qfa_passes.fuse.lower_masks import lower_masks
from qfa_passes.fuse.lower_operands import has_flat_heads, key_length, lower_extras, lower_operands
from qfa_passes.graph.edit import constant, emit_views, replace_producer
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
    inputs = lower_operands(graph, tensors, site, flat=flat)
    inputs.update(lower_extras(graph, tensors, site))
    length = None
    if any(term.fewer_keys for term in site.mask.terms):
        length = key_length(graph, inputs, site.name)
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
        attended = gs.Variable(name, dtype=node.inputs[0].dtype)  # of the query
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
    } | {name: opspec.attribute_default(name) for name in opspec.CACHE_ATTRIBUTES}


def _positional(inputs: Mapping[str, gs.Tensor]) -> list[gs.Tensor]:
    last = max(opspec.input_index(name) for name in inputs)
    return [inputs.get(spec.name, gs.Variable.empty()) for spec in opspec.INPUTS[: last + 1]]
