"""What a model takes: its inputs, fitted to arrays, and those that follow from the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto

from qfa_passes.core.dataset import Feed
from qfa_passes.core.printable import printable
from qfa_passes.errors import InvalidDataError

_ONNX_TYPES: Final[dict[int, type[np.generic]]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.FLOAT16: np.float16,
    TensorProto.INT64: np.int64,
    TensorProto.INT32: np.int32,
    TensorProto.INT16: np.int16,
    TensorProto.INT8: np.int8,
    TensorProto.UINT64: np.uint64,
    TensorProto.UINT32: np.uint32,
    TensorProto.UINT16: np.uint16,
    TensorProto.UINT8: np.uint8,
    TensorProto.BOOL: np.bool_,
}


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a model.

    Attributes:
        name: Its name.
        dtype: Its element type; None for one that NumPy cannot feed (strings, bfloat16, sequences).
        shape: Sizes; a string or None where the size is open.
    """

    name: str
    dtype: np.dtype[np.generic] | None
    shape: tuple[int | str | None, ...]

    def size(self, axis: int) -> int | None:
        """Returns the fixed size of an axis; None if it is open or does not exist."""
        if not -len(self.shape) <= axis < len(self.shape):
            return None
        size = self.shape[axis]
        return size if isinstance(size, int) else None


def inputs_of_model(proto: ModelProto) -> tuple[InputSpec, ...]:
    """Lists the inputs of a graph, without those that have an initializer."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    specs = []
    for value in proto.graph.input:
        if value.name in constants:
            continue
        kind = _ONNX_TYPES.get(value.type.tensor_type.elem_type)
        sizes: list[int | str | None] = []
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value >= 0:
                sizes.append(dim.dim_value)  # some exporters write -1 for an open size
            else:
                sizes.append(dim.dim_param or None)
        specs.append(InputSpec(value.name, np.dtype(kind) if kind else None, tuple(sizes)))
    return tuple(specs)


def token_input(specs: Sequence[InputSpec]) -> InputSpec | None:
    """Returns the input that takes token numbers (B, S), or None."""
    for spec in specs:
        if spec.name == "input_ids" and spec.dtype is not None and spec.dtype.kind in "iu":
            return spec
    return None


def fit(array: npt.NDArray[np.generic], spec: InputSpec, where: str) -> npt.NDArray[np.generic]:
    """Casts an array to the type of an input and checks it against its shape.

    Args:
        array: The data.
        spec: The input.
        where: Where the data came from, for messages.

    Raises:
        InvalidDataError: Another kind of type, another rank or size, NaN or infinity.
    """
    label = f"{where}, array '{printable(spec.name)}'"
    if spec.dtype is None:
        raise InvalidDataError(f"{label}: the model's input has a type that cannot be fed")
    kinds = {"f": "fiu", "i": "iub", "u": "iub", "b": "biu"}[spec.dtype.kind]
    if array.dtype.kind not in kinds:
        raise InvalidDataError(
            f"{label}: type {array.dtype} where the model takes {spec.dtype}",
            hint=f"save the array as {spec.dtype}",
        )
    wanted = "(" + ", ".join(str(size or "?") for size in spec.shape) + ")"
    if array.ndim != len(spec.shape):
        raise InvalidDataError(f"{label}: shape {array.shape} where the model takes {wanted}")
    for axis, size in enumerate(spec.shape):
        if isinstance(size, int) and array.shape[axis] != size:
            raise InvalidDataError(f"{label}: shape {array.shape} where the model takes {wanted}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidDataError(f"{label}: contains NaN or infinity", hint="remove these samples")
    if spec.dtype.kind in "iu" and array.size:
        limits = np.iinfo(spec.dtype.name)
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            raise InvalidDataError(f"{label}: values {low}..{high} do not fit {spec.dtype}")
    return np.ascontiguousarray(array, dtype=spec.dtype)


def complete(feed: Feed, specs: Sequence[InputSpec], where: str) -> Feed:
    """Adds the inputs that follow from the token numbers: masks, positions, segment numbers.

    Args:
        feed: Arrays by input name.
        specs: All inputs of the model.
        where: Where the data came from, for messages.

    Raises:
        InvalidDataError: An input is missing and does not follow from the others.
    """
    full = dict(feed)
    tokens = feed.get("input_ids")
    for spec in specs:
        if spec.name in full:
            continue
        derived = None
        if tokens is not None and tokens.ndim == 2 and spec.dtype is not None:
            derived = _derive(spec, tokens.shape, spec.dtype)
        if derived is None:
            raise InvalidDataError(
                f"{where}: no array for input '{printable(spec.name)}' of the model",
                why=f"found {', '.join(map(printable, sorted(feed))) or 'nothing'}",
                hint="give a .npz file with one array per input, first axis = samples",
            )
        full[spec.name] = derived
    return full


def _derive(
    spec: InputSpec, shape: tuple[int, ...], dtype: np.dtype[np.generic]
) -> npt.NDArray[np.generic] | None:
    if len(spec.shape) != 2:
        return None
    if spec.name == "attention_mask":
        return np.ones(shape, dtype)
    if spec.name == "position_ids":
        return np.ascontiguousarray(np.broadcast_to(np.arange(shape[1], dtype=dtype), shape))
    if spec.name == "token_type_ids":
        return np.zeros(shape, dtype)
    return None
