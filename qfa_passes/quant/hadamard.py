"""The (block) Walsh-Hadamard transform that spreads outlier channels before quantization.

With H its symmetric matrix and n the block length, H H = n I: rotating both operands of a dot
product multiplies it by n.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from qfa_passes.errors import UnsupportedModelError

SMALLEST_BLOCK: Final = 8
"""Below this the rotation mixes too few channels to be worth its cost."""


def block_length(channels: int) -> int:
    """Returns n, the largest power of two that divides ``channels``.

    Raises:
        UnsupportedModelError: n would be below 8.
    """
    length = channels & -channels
    if length < SMALLEST_BLOCK:
        raise UnsupportedModelError(
            f"the Hadamard rotation cannot be applied to {channels} channels",
            why=f"their number is not a multiple of {SMALLEST_BLOCK}",
            hint="use rotate=none for this model",
        )
    return length


def transform(x: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Applies the unnormalized transform to the last axis, in log2(n) float32 butterflies.

    Args:
        x: Array (..., D).

    Returns:
        Array (..., D).
    """
    values = np.asarray(x, np.float32)
    length = block_length(values.shape[-1])
    stride = 1
    while stride < length:
        pairs = values.reshape(*values.shape[:-1], values.shape[-1] // (2 * stride), 2, stride)
        low, high = pairs[..., 0, :], pairs[..., 1, :]
        with np.errstate(invalid="ignore"):  # infinities of opposite sign: the row turns into NaN
            values = np.stack((low + high, low - high), axis=-2).reshape(values.shape)
        stride *= 2
    return values


def matrix(channels: int) -> npt.NDArray[np.int8]:
    """Returns the transform as a symmetric (D, D) matrix of 1, -1 and, off the blocks, 0."""
    length = block_length(channels)
    block = np.ones((1, 1), np.int8)
    while block.shape[0] < length:
        block = np.block([[block, block], [block, -block]])
    return np.kron(np.eye(channels // length, dtype=np.int8), block)
