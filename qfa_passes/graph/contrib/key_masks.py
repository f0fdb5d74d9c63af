"""The key masks that ``com.microsoft`` attention takes: lengths or zeros and ones, told apart by shape."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from qfa_passes.graph.contrib.reading import FusedNode, Unsupported
from qfa_passes.graph.dims import Dim

DEFAULT_FILL: Final = -10000.0
"""What the operators add to the score of a masked key unless attribute mask_filter_value says otherwise."""


class KeyMask(Enum):
    """What a key mask holds; B batch, S query length, T all keys."""

    LENGTHS = auto()  # (B): the first n keys count
    ENDS_STARTS = auto()  # (2B): exclusive ends, then inclusive starts
    LENGTHS_FIRST = auto()  # (3B + 2): lengths, and offsets that say nothing more about the keys
    KEYS = auto()  # (B, T): 1 = counts
    PAIRS = auto()  # (B, S, T): 1 = counts


def read_key_mask(fused: FusedNode, name: str, batch: Dim, *, starts: bool) -> KeyMask | None:
    """Tells what the mask input ``name`` is; ``starts``: whether (2B) is allowed. None if it is not given."""
    if name not in fused.inputs:
        return None
    if not fused.integer_type(name):
        raise Unsupported(f"the type of {name} of {fused.label} is not int32")
    shape = fused.shape(name, 1, 2, 3)
    if len(shape) > 1:
        return KeyMask.KEYS if len(shape) == 2 else KeyMask.PAIRS
    forms = {batch: KeyMask.LENGTHS, Dim.of(3) * batch + Dim.of(2): KeyMask.LENGTHS_FIRST}
    if starts:
        forms[Dim.of(2) * batch] = KeyMask.ENDS_STARTS
    if shape[0] not in forms:
        raise Unsupported(
            f"{name} of {fused.label} has {shape[0]} items for a batch of {batch}:"
            " what they mean is not clear"
        )
    return forms[shape[0]]
