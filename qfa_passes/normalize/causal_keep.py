"""The causal triangle as a truth value; blocks of the same lengths share it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from qfa_passes.graph.dims import Dim
from qfa_passes.normalize.writer import Writer

Shared = dict[object, Any]
"""Values that several blocks read, by what they were made from."""

Extent = tuple[gs.Tensor, int]
"""An axis of a value."""


def causal_keep(
    writer: Writer,
    shared: Shared,
    lengths: tuple[Dim, Dim, Dim],
    queries: Extent,
    keys: Extent,
    past: Extent | None,
) -> gs.Tensor:
    """(S, T): true where key j <= query i + P.

    Args:
        writer: Takes the nodes, unless the same triangle is there already.
        shared: Triangles that are there.
        lengths: S, T and P; equal extents are equal in every run.
        queries: Where S can be read.
        keys: Where T can be read; it counts past keys.
        past: Where P can be read; None: no past.
    """
    where = ("causal", lengths)
    if where in shared:
        return shared[where]
    zero, one = writer.scalar("zero", 0), writer.scalar("one", 1)
    start: gs.Tensor = zero
    total, end = writer.extent("total", *keys), writer.extent("rows", *queries)
    if past is not None:
        start = writer.extent("past", *past)
        end = writer.op("Add", "last", start, end, dtype=np.int64)
    places = writer.op("Range", "key_places", zero, total, one, dtype=np.int64)
    rows = writer.op("Range", "query_places", start, end, one, dtype=np.int64)
    column = writer.unsqueeze("query_column", rows, 1)
    shared[where] = writer.op("LessOrEqual", "causal", places, column, dtype=np.bool_)
    return shared[where]
