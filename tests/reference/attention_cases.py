"""Random attention inputs and the measure that outputs are compared with."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def unit_normal(
    shape: tuple[int, int, int, int, int, int, int], seed: int = 0
) -> tuple[Array, Array, Array]:
    """Returns Q, K, V of unit-normal elements for (B, H, Hkv, S, T, D, Dv)."""
    batch, heads, kv_heads, rows, keys, channels, v_channels = shape
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((batch, heads, rows, channels), np.float32),
        rng.standard_normal((batch, kv_heads, keys, channels), np.float32),
        rng.standard_normal((batch, kv_heads, keys, v_channels), np.float32),
    )


def nmse(actual: npt.ArrayLike, expected: npt.ArrayLike) -> float:
    """Returns the squared error over the squared signal; 0 for equal arrays, even of zeros."""
    x, y = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert x.shape == y.shape
    error, signal = np.sum((x - y) ** 2), np.sum(y**2)
    return 0.0 if error == 0 else float(error / signal)
