"""Which keys of a cache with free places a query sees."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.graph.contrib.grouped import Grouped
from qfa_passes.normalize.cache_places import CachePlaces, behind
from qfa_passes.normalize.causal_keep import Shared
from qfa_passes.normalize.writer import Writer


def visible(
    writer: Writer, shared: Shared, request: Grouped, cache: CachePlaces, keys: gs.Tensor
) -> gs.Tensor:
    """(B, 1, S or 1, L), or (S, S) without a past: which of the ``keys`` (B, Hkv, L, D) a query sees."""
    where = ("visible", id(cache), request.causal, request.window)
    if where not in shared:
        shared[where] = _visible(writer, request, cache, keys)
    return shared[where]


def _visible(writer: Writer, request: Grouped, cache: CachePlaces, keys: gs.Tensor) -> gs.Tensor:
    places = writer.count("key_places", writer.extent("key_count", keys, 2))
    if not request.causal:
        return _present(writer, request, places)
    column = writer.unsqueeze("steps_column", cache.steps, 1)
    own = behind(writer, "query_places", cache.past, column, (1, 2, 3))
    keep = writer.op("LessOrEqual", "causal", places, own, dtype=np.bool_)
    if request.window > 0:
        width = writer.scalar("window", request.window)
        edge = writer.op("Sub", "window_edge", own, width, dtype=np.int64)
        near = writer.op("Greater", "near", places, edge, dtype=np.bool_)
        keep = writer.op("And", "in_window", keep, near, dtype=np.bool_)
    if request.evicts:  # such a cache takes no padding
        return keep
    present = _present(writer, request, places)  # hides padding from the padding of a first run
    return writer.op("And", "visible", keep, present, dtype=np.bool_)


def _present(writer: Writer, request: Grouped, places: gs.Tensor) -> gs.Variable:
    """(B, 1, 1, L): keys that are neither padding nor a free place."""
    last = writer.wide("key_last", request.fused.inputs["seqlens_k"])
    last = writer.reshape("key_last_list", last, -1)
    counts = writer.op("Add", "key_counts", last, writer.scalar("one", 1), dtype=np.int64)
    ends = writer.unsqueeze("key_ends", counts, 1, 2, 3)
    return writer.op("Less", "present", places, ends, dtype=np.bool_)


def padded_bias(writer: Writer, bias: gs.Tensor, cache: CachePlaces) -> gs.Tensor:
    """(., ., S, total) to (., ., S, L): free places of the cache get 0, and no query sees them."""
    total = writer.extent("bias_total", bias, 3)
    missing = writer.op("Sub", "bias_missing", cache.length, total, dtype=np.int64)
    pads = writer.op(
        "Concat",
        "bias_pads",
        writer.numbers("bias_before", *(0,) * 7),
        writer.reshape("bias_missing_list", missing, 1),
        dtype=np.int64,
        axis=0,
    )
    return writer.op("Pad", "bias_padded", bias, pads)
