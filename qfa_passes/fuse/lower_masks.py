"""Mask terms of a site become the attn_mask and attn_bias inputs of the operator."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.core.site import AttentionSite, MaskKind, MaskTerm
from qfa_passes.graph.edit import constant, emit
from qfa_passes.graph.ir import Graph

_BIAS_TYPES = (np.dtype(np.float32), np.dtype(np.float16))


def lower_masks(
    graph: Graph, tensors: Mapping[str, gs.Tensor], site: AttentionSite
) -> dict[str, gs.Tensor]:
    """Appends the nodes that combine a site's mask terms; returns the operator inputs that carry them."""
    masks: list[gs.Tensor] = []
    biases: list[gs.Tensor] = []
    for term in site.mask.terms:
        tensor = tensors[term.tensor]
        if term.kind is MaskKind.BIAS:
            biases.append(_as_bias(graph, tensor, site.name))
        elif np.isfinite(term.fill):
            biases.append(_fill(graph, tensor, term, site.name))
        elif term.kind is MaskKind.DROP:
            masks.append(emit(graph, "Not", [tensor], f"{site.name}/keep", dtype=np.bool_))
        else:
            masks.append(tensor)
    inputs: dict[str, gs.Tensor] = {}
    if masks:
        inputs["attn_mask"] = _join(graph, "And", masks, f"{site.name}/attn_mask")
    if len({bias.dtype for bias in biases}) > 1:  # Add takes one type only
        biases = [_widened(graph, bias, site.name) for bias in biases]
    if biases:
        inputs["attn_bias"] = _join(graph, "Add", biases, f"{site.name}/attn_bias")
    return inputs


def _join(graph: Graph, op: str, parts: list[gs.Tensor], stem: str) -> gs.Tensor:
    result = parts[0]
    for part in parts[1:]:
        result = emit(graph, op, [result, part], stem, dtype=result.dtype)
    return result


def _as_bias(graph: Graph, tensor: gs.Tensor, stem: str) -> gs.Tensor:
    if tensor.dtype is None or np.dtype(tensor.dtype) in _BIAS_TYPES:
        return tensor
    return _widened(graph, tensor, stem)


def _widened(graph: Graph, tensor: gs.Tensor, stem: str) -> gs.Tensor:
    if tensor.dtype == np.float32:
        return tensor
    return emit(graph, "Cast", [tensor], f"{stem}/bias", dtype=np.float32, attrs={"to": np.float32})


def _fill(graph: Graph, condition: gs.Tensor, term: MaskTerm, stem: str) -> gs.Tensor:
    fill = constant(graph, f"{stem}/masked", np.array(term.fill, dtype=np.float32))
    open_ = constant(graph, f"{stem}/open", np.array(0, dtype=np.float32))
    branches = [open_, fill] if term.kind is MaskKind.KEEP else [fill, open_]
    return emit(graph, "Where", [condition, *branches], f"{stem}/bias", dtype=np.float32)
