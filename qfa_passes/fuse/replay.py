"""One site alone: a model of just its operator node, to be run on captured inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, helper

from qfa_passes.core.plan import SitePlan
from qfa_passes.core.site import AttentionSite
from qfa_passes.fuse.attach_body import attach_body
from qfa_passes.fuse.fuse_attention import fuse_site, with_scales
from qfa_passes.graph.ir import Graph

_IR_VERSION = 10


def site_values(site: AttentionSite) -> list[str]:
    """Names of the values that a site reads."""
    operands = [operand.tensor for operand in (site.query, site.key, site.value)]
    return list(dict.fromkeys(operands + [term.tensor for term in site.mask.terms]))


def replay_model(
    site: AttentionSite,
    plan: SitePlan,
    k_mean: npt.NDArray[np.float32] | None,
    examples: Mapping[str, npt.NDArray[Any]],
    opset: int,
) -> ModelProto:
    """Builds the model: inputs are the values that the site reads, the output is the site's.

    Args:
        site: The site in the float graph.
        plan: Its plan; with static scales the plan's steps are used.
        k_mean: Shift of K, (Hkv, D), or None.
        examples: Captured values; they give types and ranks.
        opset: Version of ai.onnx.
    """
    inputs = [
        helper.make_tensor_value_info(
            name,
            helper.np_dtype_to_tensor_dtype(examples[name].dtype),
            [None] * examples[name].ndim,
        )
        for name in site_values(site)
    ]
    output = helper.make_tensor_value_info(site.output, site.dtype, [None] * 4)
    anchor = helper.make_node("Identity", [site.query.tensor], [site.output], name="anchor")
    proto = helper.make_model(
        helper.make_graph([anchor], "site", inputs, [output]),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=_IR_VERSION,
    )
    graph = Graph(proto)
    fuse_site(graph, with_scales(site, plan.scales), plan, k_mean)
    fused = graph.finish()
    attach_body(fused, site.qk_channels)
    return fused
