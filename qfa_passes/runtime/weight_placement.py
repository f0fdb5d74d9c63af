"""Hands a shell and its WeightStore to ONNX Runtime without a second copy of the weights in memory.

Bytes that lie in files stay there: the session maps them at any offset, as ordinary external data (measured on
1.24.4 and 1.31.1: no private memory with prepacking off, one packed copy with it on). Bytes in memory go in as external
initializers, which the session copies once. What neither way can carry is written into the proto.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from qfa_passes.core.model import LoadedModel
from qfa_passes.core.walk import all_tensors
from qfa_passes.core.weights import FileSlice, WeightStore, is_hollow

_SUBSTITUTES: Final[dict[int, type[np.generic]]] = {
    TensorProto.BFLOAT16: np.uint16,
    TensorProto.FLOAT8E4M3FN: np.uint8,
    TensorProto.FLOAT8E4M3FNUZ: np.uint8,
    TensorProto.FLOAT8E5M2: np.uint8,
    TensorProto.FLOAT8E5M2FNUZ: np.uint8,
}
"""Element types that NumPy lacks, and the ones of equal size that carry their bytes."""

_PACKED: Final = frozenset((TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1, 25, 26))
"""Several elements a byte (25 and 26 are the 2-bit integers): no array has the tensor's shape."""

_INLINE_BYTES: Final = 1 << 20
"""Smaller blobs are written into the proto, where constant folding sees them."""

_IN_MEMORY: Final = "memory"
"""Location of tensors whose bytes the session is handed; it never looks there."""


@dataclass(slots=True)
class PlacedWeights:
    """A model in the form that a session takes.

    Attributes:
        proto: Every formerly hollow tensor refers to a file below ``folder``, to ``arrays``, or holds its bytes.
        folder: What external-data locations are relative to; None if no tensor lies in a file.
        arrays: External initializers by name, as (array, ONNX element type).
    """

    proto: ModelProto
    folder: Path | None = None
    arrays: dict[str, tuple[npt.NDArray[np.generic], int]] = field(default_factory=dict)


def place_weights(model: LoadedModel) -> PlacedWeights:
    """Returns a copy of the shell whose tensors all have bytes again.

    Raises:
        InvalidModelError: A weight file changed since it was checked.
    """
    placed = PlacedWeights(ModelProto())
    placed.proto.CopyFrom(model.proto)
    in_files: list[tuple[TensorProto, FileSlice]] = []
    for tensor in placed.proto.graph.initializer:
        if not is_hollow(tensor):
            continue
        source = model.weights.source(tensor)
        if isinstance(source, FileSlice) and source.nbytes:
            in_files.append((tensor, source))
        elif source.nbytes > _INLINE_BYTES and tensor.data_type not in _PACKED:
            placed.arrays[tensor.name] = (_as_array(tensor, model.weights), tensor.data_type)
            _refer_to(tensor, location=_IN_MEMORY)
    if in_files:
        placed.folder = _refer_to_files(in_files, model.weights)
    for _, tensor in all_tensors(placed.proto):
        if is_hollow(tensor):
            _write_inline(tensor, model.weights)
    return placed


def _refer_to_files(tensors: list[tuple[TensorProto, FileSlice]], weights: WeightStore) -> Path:
    files = {source.path: source.path.resolve() for _, source in tensors}
    for path in files:
        # Zero bytes: only the check that the file is still the one that was loaded.
        for _ in weights.chunks(FileSlice(path, 0, 0)):
            pass
    folder = Path(os.path.commonpath([path.parent for path in files.values()]))
    for tensor, source in tensors:
        _refer_to(
            tensor,
            location=files[source.path].relative_to(folder).as_posix(),
            offset=str(source.offset),
            length=str(source.nbytes),
        )
    return folder


def _refer_to(tensor: TensorProto, **entries: str) -> None:
    del tensor.external_data[:]
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)


def _write_inline(tensor: TensorProto, weights: WeightStore) -> None:
    data = bytes(weights.view(tensor))
    del tensor.external_data[:]
    tensor.data_location = TensorProto.DEFAULT
    tensor.raw_data = data


def _as_array(tensor: TensorProto, weights: WeightStore) -> npt.NDArray[np.generic]:
    dtype = _SUBSTITUTES.get(tensor.data_type) or tensor_dtype_to_np_dtype(tensor.data_type)
    flat: npt.NDArray[np.generic] = np.frombuffer(weights.view(tensor), dtype)
    return flat.reshape(tuple(tensor.dims))
