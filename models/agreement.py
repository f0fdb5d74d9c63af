"""How far an exported model is from the module that it was exported from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch


def largest_difference(
    path: Path, module: torch.nn.Module, inputs: Mapping[str, npt.NDArray[Any]]
) -> float:
    """Run both on the same inputs; return the largest absolute difference of the first output."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    actual = session.run(None, dict(inputs))[0]
    with torch.no_grad():
        expected = module(*(torch.from_numpy(array) for array in inputs.values())).numpy()
    if actual.shape != expected.shape:
        raise ValueError(f"{path} gives {actual.shape}, the module {expected.shape}")
    return float(np.abs(actual - expected).max())
