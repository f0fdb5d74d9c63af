"""Mask terms of a site become the attn_mask and attn_bias inputs of the operator."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.core.site import AttentionSite, MaskKind, MaskTerm
from qfa_passes.fuse.element_types import FLOAT_TYPES, element_type, widened
from qfa_passes.graph.edit import constant, emit, emit_views
from qfa_passes.graph.ir import Graph


def lower_masks(
    graph: Graph,
    tensors: Mapping[str, gs.Tensor],
    site: AttentionSite,
    key_length: gs.Tensor | None = None,
) -> dict[str, gs.Tensor]:
    """Appends the nodes that combine a site's mask terms; returns the operator inputs that carry them.

    Args:
        graph: The graph.
        tensors: Its values by name.
        site: The site.
        key_length: T, past keys included, as a vector of one; needed for terms with ``fewer_keys``.
    """
    masks: list[gs.Tensor] = []
    biases: list[gs.Tensor] = []
    for term in site.mask.terms:
        tensor = emit_views(graph, tensors[term.tensor], term.views, f"{site.name}/mask")
        added = term.kind is MaskKind.BIAS or np.isfinite(term.fill)
        if term.kind is MaskKind.BIAS:
            tensor = _scaled(graph, _as_bias(graph, tensor, site.name), term, site.name)
        elif added:
            tensor = _fill(graph, tensor, term, site.name)
        elif term.kind is MaskKind.DROP:
            tensor = emit(graph, "Not", [tensor], f"{site.name}/keep", dtype=np.bool_)
        if term.fewer_keys:
            assert key_length is not None, "only a site whose keys are there has such terms"
            tensor = _lengthened(graph, tensor, key_length, site.name, added=added)
        (biases if added else masks).append(tensor)
    inputs: dict[str, gs.Tensor] = {}
    if masks:
        inputs["attn_mask"] = _join(graph, "And", masks, f"{site.name}/attn_mask")
    if len({element_type(bias) for bias in biases}) > 1:  # Add takes one type only
        biases = [widened(graph, bias, f"{site.name}/bias") for bias in biases]
    if biases:
        inputs["attn_bias"] = _join(graph, "Add", biases, f"{site.name}/attn_bias")
    return inputs


def _join(graph: Graph, op: str, parts: list[gs.Tensor], stem: str) -> gs.Tensor:
    result = parts[0]
    for part in parts[1:]:
        result = emit(graph, op, [result, part], stem, dtype=result.dtype)
    return result


def _as_bias(graph: Graph, tensor: gs.Tensor, stem: str) -> gs.Tensor:
    known = element_type(tensor)
    if known is None or known in FLOAT_TYPES:
        return tensor
    return widened(graph, tensor, f"{stem}/bias")


def _scaled(graph: Graph, bias: gs.Tensor, term: MaskTerm, stem: str) -> gs.Tensor:
    """The bias times its factor, in float32: a finite bias must not become infinite in half precision."""
    if term.factor == 1.0:
        return bias
    wide = widened(graph, bias, f"{stem}/bias")
    factor = constant(graph, f"{stem}/bias_factor", np.array(term.factor, dtype=np.float32))
    return emit(graph, "Mul", [wide, factor], f"{stem}/bias_scaled", dtype=np.float32)


def _fill(graph: Graph, condition: gs.Tensor, term: MaskTerm, stem: str) -> gs.Tensor:
    fill = constant(graph, f"{stem}/masked", np.array(term.fill, dtype=np.float32))
    open_ = constant(graph, f"{stem}/open", np.array(0, dtype=np.float32))
    branches = [open_, fill] if term.kind is MaskKind.KEEP else [fill, open_]
    return emit(graph, "Where", [condition, *branches], f"{stem}/bias", dtype=np.float32)


def _lengthened(
    graph: Graph, mask: gs.Tensor, key_length: gs.Tensor, stem: str, *, added: bool
) -> gs.Tensor:
    """Masks all keys beyond the last axis of a mask, up to T.

    Joined, not padded: that works for any rank and type, and for nothing to add.
    """
    stem = f"{stem}/more_keys"
    if added:
        mask = widened(graph, mask, f"{stem}_bias")  # the type of the filler
    front = emit(
        graph, "Shape", [mask], f"{stem}_front", dtype=np.int64, attrs={"start": 0, "end": -1}
    )
    present = emit(graph, "Shape", [mask], f"{stem}_present", dtype=np.int64, attrs={"start": -1})
    missing = emit(graph, "Sub", [key_length, present], f"{stem}_missing", dtype=np.int64)
    shape = emit(
        graph, "Concat", [front, missing], f"{stem}_shape", dtype=np.int64, attrs={"axis": 0}
    )
    hidden = np.array([-np.inf], np.float32) if added else np.array([False])
    filler = emit(
        graph,
        "ConstantOfShape",
        [shape],
        f"{stem}_filler",
        dtype=hidden.dtype,
        attrs={"value": gs.Constant("hidden", hidden)},
    )
    return emit(
        graph, "Concat", [mask, filler], f"{stem}_joined", dtype=mask.dtype, attrs={"axis": -1}
    )
