"""Where the keys of a cache with free places stand, which of them a query sees, and at which position it stands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.graph.contrib.grouped import Grouped
from qfa_passes.normalize.causal_keep import Shared
from qfa_passes.normalize.window_cache import resident
from qfa_passes.normalize.writer import Writer


@dataclass(frozen=True, slots=True)
class CachePlaces:
    """Integers that all heads, and often all blocks, have in common.

    Attributes:
        lengths: (B): how many keys each batch has with the new ones; None: those are all.
        past: (B): how many it has from earlier runs; None: none has any.
        position: (B): where its first new key stands in the sequence; ``past``, unless keys were evicted.
        present: (B): where the present cache starts in the joined one, if it evicts keys.
        room: C, scalar: places of the cache before.
        first: Truth value: this is the first run. None where ``past`` is.
        rows: S, scalar.
        length: L, scalar: places of the joined cache.
        places: (L): 0, 1, 2, ...
        steps: (S): 0, 1, 2, ...
    """

    lengths: gs.Tensor | None
    past: gs.Tensor | None
    position: gs.Tensor | None
    present: gs.Tensor | None
    room: gs.Tensor
    first: gs.Tensor | None
    rows: gs.Tensor
    length: gs.Tensor
    places: gs.Tensor
    steps: gs.Tensor


def cache_places(writer: Writer, shared: Shared, request: Grouped) -> CachePlaces:
    """Writes the integers of a node, unless another node has the same."""
    inputs, shapes = request.fused.inputs, request.fused.shapes
    query, before = shapes.shape(inputs["query"]), inputs.get("past_key")
    assert query is not None
    extent = None if before is None else shapes.shape(before)
    lengths = inputs["seqlens_k"].name, inputs["total_sequence_length"].name
    window = request.window if request.evicts else None
    where = ("cache", query[1], None if extent is None else extent[2], *lengths, window)
    known = shared.get(where)
    if not isinstance(known, CachePlaces):
        known = (
            _with_past(writer, request, before) if before is not None else _alone(writer, request)
        )
        shared[where] = known
    return known


def _alone(writer: Writer, request: Grouped) -> CachePlaces:
    rows = writer.extent("rows", request.fused.inputs["query"], 1)
    steps = writer.count("steps", rows)
    return CachePlaces(None, None, None, None, rows, None, rows, rows, steps, steps)


def _with_past(writer: Writer, request: Grouped, before: gs.Tensor) -> CachePlaces:
    inputs = request.fused.inputs
    rows = writer.extent("rows", inputs["query"], 1)
    total = writer.wide("total", inputs["total_sequence_length"])
    total = writer.reshape("total_scalar", total)
    ends = writer.reshape("ends", writer.wide("last", inputs["seqlens_k"]), -1)
    first = writer.op("Equal", "is_first", rows, total, dtype=np.bool_)
    counts = writer.op("Add", "counts", ends, writer.scalar("one", 1), dtype=np.int64)
    lengths = writer.op("Where", "lengths", first, rows, counts, dtype=np.int64)
    past = writer.op("Sub", "past", lengths, rows, dtype=np.int64)
    room = writer.extent("room", before, 2)
    steps = writer.count("steps", rows)
    if not request.evicts:
        length = writer.op("Max", "length", room, total, dtype=np.int64)
        places = writer.count("places", length)
        return CachePlaces(lengths, past, past, None, room, first, rows, length, places, steps)
    held = resident(writer, "before", past, room, request.window)
    lengths = writer.op("Add", "joined_lengths", held, rows, dtype=np.int64)
    length = writer.op("Add", "length", room, rows, dtype=np.int64)
    kept = resident(writer, "after", counts, room, request.window)
    gone = writer.op("Sub", "gone", counts, kept, dtype=np.int64)
    oldest = writer.op("Sub", "oldest", past, held, dtype=np.int64)
    start = writer.op("Sub", "present_start", gone, oldest, dtype=np.int64)
    held = writer.op("Sub", "held", lengths, rows, dtype=np.int64)  # as the matcher reads it
    places = writer.count("places", length)
    return CachePlaces(lengths, held, past, start, room, first, rows, length, places, steps)


def positions(writer: Writer, shared: Shared, request: Grouped, cache: CachePlaces) -> gs.Tensor:
    """(B, S) or (1, S): the positions for which queries and new keys are rotated.

    In the first run the operator looks at the first of the given positions only and counts on from there.
    """
    given = request.fused.inputs.get("position_ids")
    where = ("positions", id(cache), None if given is None else given.name)
    if where in shared:
        return shared[where]
    steps = writer.unsqueeze("steps_row", cache.steps, 0)
    if given is None:
        shared[where] = behind(writer, "positions", cache.position, steps, (1,))
        return shared[where]
    start = writer.cut("position_batch", given, 0, 0, 1)
    start = writer.cut("position_start", start, 1, 0, 1)
    counted = writer.op("Add", "position_counted", start, steps, dtype=np.int64)
    if cache.first is not None:
        counted = writer.op("Where", "positions", cache.first, counted, given, dtype=np.int64)
    shared[where] = counted
    return counted


def joined(
    writer: Writer,
    shared: Shared,
    step: str,
    before: gs.Tensor,
    new: gs.Tensor,
    cache: CachePlaces,
) -> gs.Tensor:
    """(B, Hkv, L, D): keys of earlier runs, new keys right behind those of each batch, then zeros.

    The source of the gather is (new keys, one row of zeros, buffer), so that the batch is that of the query.
    """
    assert cache.past is not None
    rows = writer.op(
        "Pad", f"{step}_and_zero", new, writer.numbers(f"{step}_pads", 0, 0, 0, 0, 0, 0, 1, 0)
    )
    source = writer.op("Concat", f"{step}_source", rows, before, axis=2)
    where = ("index", id(cache))
    if where not in shared:
        shared[where] = _index(writer, cache)
    heads = writer.extent(f"{step}_heads_count", new, 1)
    shape = writer.op(
        "Concat",
        f"{step}_index_shape",
        writer.numbers("one", 1),
        writer.reshape(f"{step}_heads_list", heads, 1),
        writer.numbers("ones", 1, 1),
        dtype=np.int64,
        axis=0,
    )
    index = writer.op("Expand", f"{step}_index", shared[where], shape, dtype=np.int64)
    return writer.op("GatherND", step, source, index, batch_dims=2)


def _index(writer: Writer, cache: CachePlaces) -> gs.Tensor:
    """(B, 1, L, 1): the row of the source that stands at each place."""
    assert cache.past is not None
    one = writer.scalar("one", 1)
    column = writer.unsqueeze("past_column", cache.past, 1)
    behind = writer.op("Sub", "behind", cache.places, column, dtype=np.int64)
    fresh = writer.op("Min", "fresh", behind, cache.rows, dtype=np.int64)  # S is the row of zeros
    offset = writer.op("Add", "buffer", cache.rows, one, dtype=np.int64)
    old = writer.op("Add", "old", cache.places, offset, dtype=np.int64)
    is_old = writer.op("Less", "is_old", cache.places, column, dtype=np.bool_)
    index = writer.op("Where", "source_row", is_old, old, fresh, dtype=np.int64)
    return writer.unsqueeze("index", index, 1, 3)


def behind(
    writer: Writer, step: str, past: gs.Tensor | None, steps: gs.Tensor, axes: tuple[int, ...]
) -> gs.Tensor:
    """Adds past to steps; ``axes`` are the new axes that let the batch broadcast."""
    if past is None:
        return steps
    column = writer.unsqueeze(f"{step}_past", past, *axes)
    return writer.op("Add", step, column, steps, dtype=np.int64)
