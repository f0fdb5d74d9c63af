"""Constants that follow a rule: the same number everywhere, evenly spaced numbers, a band along the diagonal."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qfa_passes.graph.dims import Dim
from qfa_passes.match.index_algebra import ALWAYS, NEVER, Choice, Linear, Truth, Value

_LARGEST = 1 << 30


def table_value(table: npt.NDArray[Any]) -> Value | None:
    """The rule that a constant follows over its own extents; None if it has none."""
    kind = getattr(table.dtype, "kind", "")
    if not table.size or (kind not in "fiub" and table.dtype.name != "bfloat16"):
        return None
    if kind not in "iub":
        table = table.astype(np.float64)
        if np.isnan(table).any():
            return None
    first = table.reshape(-1)[0].item()
    if (table == first).all():
        if kind == "b":
            return ALWAYS if first else NEVER
        return int(first) if kind in "iu" else float(first)
    if kind == "b":
        return _band(table)
    return _evenly_spaced(table) or _two_numbers(table)


def _evenly_spaced(table: npt.NDArray[Any]) -> Linear | None:
    """Numbers that grow by a fixed step along each axis, such as 0, 1, 2, ... or i - j."""
    if not np.isfinite(table).all() or np.abs(table.astype(np.float64)).max() > _LARGEST:
        return None
    whole = table.astype(np.int64)
    first = int(whole.reshape(-1)[0])
    steps, rule = {}, np.full(table.shape, first)
    for axis, extent in enumerate(table.shape):
        if extent == 1:
            continue
        corner = [0] * table.ndim
        corner[axis] = 1
        step = int(whole[tuple(corner)]) - first
        along = [1] * table.ndim
        along[axis] = extent
        rule = rule + step * np.arange(extent).reshape(along)
        steps[table.ndim - 1 - axis] = step
    return Linear.of(steps, Dim.of(first)) if (rule == table).all() else None


def _two_numbers(table: npt.NDArray[Any]) -> Choice | None:
    numbers = np.unique(table)
    if len(numbers) != 2:
        return None
    where = _band(table == numbers[1])
    yes, no = numbers[1].item(), numbers[0].item()
    return None if where is None else Choice(where, yes, no)


def _band(table: npt.NDArray[np.bool_]) -> Truth | None:
    """A truth that holds where j - i lies between two numbers, or outside of them."""
    if table.ndim < 2 or any(extent != 1 for extent in table.shape[:-2]):
        return None
    rows, columns = table.shape[-2:]
    plane = table.reshape(rows, columns)
    offset = np.arange(columns) - np.arange(rows)[:, np.newaxis]
    for holds in (True, False):
        inside = offset[plane == holds]
        low, high = int(inside.min()), int(inside.max())
        if ((plane == holds) == ((low <= offset) & (offset <= high))).all():
            bounds = []
            if low > offset.min():
                bounds.append(Linear(((0, 1), (1, -1)), Dim.of(-low)))
            if high < offset.max():
                bounds.append(Linear(((0, -1), (1, 1)), Dim.of(high)))
            band = Truth(True, tuple(bounds))
            return band if holds else band.negated()
    return None
