"""What nodes ask for in which every query head has keys and values of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qfa_passes.graph.contrib.key_masks import KeyMask
from qfa_passes.graph.contrib.reading import FusedNode


@dataclass(frozen=True, slots=True)
class Ungrouped:
    """What an Attention or MultiHeadAttention node asks for.

    Attributes:
        fused: The node.
        heads: H.
        channels: D.
        v_channels: Dv.
        scale: Factor on Q K^T.
        causal: Whether later keys are hidden.
        fill: Added to the score of a masked key.
        mask: What the key mask holds; None: no mask.
        element: Element type.
    """

    fused: FusedNode
    heads: int
    channels: int
    v_channels: int
    scale: float
    causal: bool
    fill: float
    mask: KeyMask | None
    element: np.dtype[np.generic]
