"""One site alone: a model of just its operator node, to be run on captured inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, helper

from qfa_passes.core.formats import AttentionFormat
from qfa_passes.core.plan import SitePlan
from qfa_passes.core.site import AttentionSite
from qfa_passes.core.view import rank_after
from qfa_passes.fuse.attach_body import attach_body
from qfa_passes.fuse.fuse_attention import fuse_site, with_scales
from qfa_passes.graph.ir import Graph

_IR_VERSION = 10


def site_values(site: AttentionSite) -> list[str]:
    """Names of the values that a site reads."""
    return list(site.reads)


def float_model(
    site: AttentionSite, examples: Mapping[str, npt.NDArray[Any]], opset: int
) -> ModelProto:
    """The site in float and without a function body, for those who know the operator's definition."""
    plan = SitePlan(site.name, AttentionFormat.FLOAT)
    return replay_model(site, plan, None, examples, opset, body=False)


def replay_model(
    site: AttentionSite,
    plan: SitePlan,
    k_mean: npt.NDArray[np.float32] | None,
    examples: Mapping[str, npt.NDArray[Any]],
    opset: int,
    *,
    body: bool = True,
) -> ModelProto:
    """Builds the model: inputs are the values that the site reads, outputs those that it computes.

    Args:
        site: The site in the float graph.
        plan: Its plan; with static scales the plan's steps are used.
        k_mean: Shift of K, (Hkv, D), or None.
        examples: Captured values; they give types and ranks.
        opset: Version of ai.onnx.
        body: With the function body, which runs where the library is not.
    """
    inputs = [
        helper.make_tensor_value_info(
            name,
            helper.np_dtype_to_tensor_dtype(examples[name].dtype),
            [None] * examples[name].ndim,
        )
        for name in site_values(site)
    ]
    ranks = {site.output: rank_after(site.output_views)}
    outputs = [
        helper.make_tensor_value_info(name, site.dtype, [None] * ranks.get(name, 4))
        for name in site.computes
    ]
    anchors = [
        helper.make_node("Identity", [site.query.tensor], [name], name=f"anchor_{number}")
        for number, name in enumerate(site.computes)
    ]
    proto = helper.make_model(
        helper.make_graph(anchors, "site", inputs, outputs),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=_IR_VERSION,
    )
    graph = Graph(proto)
    fuse_site(graph, with_scales(site, plan.scales), plan, k_mean)
    proto = graph.finish()
    if body:
        attach_body(proto, site.qk_channels)
    return proto
