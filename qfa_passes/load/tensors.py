"""Checks that a tensor's bytes are as many as its type and dimensions say."""

from math import prod
from typing import Final

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from qfa_passes.core.printable import printable
from qfa_passes.errors import InvalidModelError, UnsupportedModelError

_T: Final = TensorProto
BITS: Final[dict[int, int]] = {
    **dict.fromkeys((_T.UINT2, _T.INT2), 2),
    **dict.fromkeys((_T.UINT4, _T.INT4, _T.FLOAT4E2M1), 4),
    **dict.fromkeys((_T.FLOAT6E2M3, _T.FLOAT6E3M2), 6),
    **dict.fromkeys((_T.UINT8, _T.INT8, _T.BOOL, _T.FLOAT8E4M3FN, _T.FLOAT8E4M3FNUZ), 8),
    **dict.fromkeys((_T.FLOAT8E5M2, _T.FLOAT8E5M2FNUZ, _T.FLOAT8E8M0), 8),
    **dict.fromkeys((_T.UINT16, _T.INT16, _T.FLOAT16, _T.BFLOAT16), 16),
    **dict.fromkeys((_T.FLOAT, _T.INT32, _T.UINT32), 32),
    **dict.fromkeys((_T.DOUBLE, _T.INT64, _T.UINT64, _T.COMPLEX64), 64),
    _T.COMPLEX128: 128,
}
"""Bits of one element as raw data packs them; strings have no raw form."""

_TYPED_FIELDS: Final = (
    "float_data",
    "int32_data",
    "int64_data",
    "double_data",
    "uint64_data",
    "string_data",
)
_MAX_ELEMENTS: Final = 1 << 62


def count_elements(tensor: TensorProto, where: str) -> int:
    """Returns the number of elements; raises InvalidModelError for impossible dimensions."""
    dims = list(tensor.dims)
    if any(dim < 0 for dim in dims):
        raise _bad(tensor, where, f"negative dimension in {_shape(dims)}")
    count = prod(dims)
    # A zero hides an overflow of the other dimensions, which native code multiplies in another order.
    if prod(dim for dim in dims if dim) >= _MAX_ELEMENTS:
        raise _bad(tensor, where, f"dimensions {_shape(dims)} multiply beyond 2**62")
    return count


def expected_bytes(tensor: TensorProto, where: str) -> int:
    """Returns the length that raw data of this type and these dimensions must have.

    Raises:
        InvalidModelError: Impossible dimensions, an unknown type, or a string tensor.
    """
    count = count_elements(tensor, where)
    bits = BITS.get(tensor.data_type)
    if bits is None:
        raise _bad(tensor, where, f"element type {tensor.data_type} has no raw form")
    return (count * bits + 7) // 8


def check_tensor(tensor: TensorProto, where: str) -> None:
    """Checks an inline tensor against its own type and dimensions.

    Raises:
        InvalidModelError: They contradict each other.
        UnsupportedModelError: The tensor is split into segments.
    """
    if tensor.HasField("segment"):
        raise UnsupportedModelError(
            f"tensor '{printable(tensor.name)}' in {where} is stored in segments",
            hint="save the model with a current exporter",
        )
    if tensor.data_type != _T.STRING and tensor.data_type not in BITS:
        raise _bad(tensor, where, f"unknown element type {tensor.data_type}")
    count = count_elements(tensor, where)
    used = [name for name in _TYPED_FIELDS if len(getattr(tensor, name))]
    if len(used) + tensor.HasField("raw_data") > 1:
        raise _bad(tensor, where, f"has its values in several fields ({', '.join(used)}, raw data)")
    if tensor.HasField("raw_data"):
        expected = expected_bytes(tensor, where)
        if len(tensor.raw_data) != expected:
            raise _length(tensor, where, len(tensor.raw_data), expected)
        return
    field = (
        "string_data"
        if tensor.data_type == _T.STRING
        else helper.tensor_dtype_to_field(tensor.data_type)
    )
    if used and used != [field]:
        raise _bad(tensor, where, f"keeps its values in {used[0]}, which does not fit its type")
    stored, expected = len(getattr(tensor, field)), _typed_count(tensor.data_type, count)
    if stored != expected:
        raise _bad(
            tensor,
            where,
            f"has {stored:,} values in {field}, but {_shape(tensor.dims)} needs {expected:,}",
        )


def check_length(tensor: TensorProto, where: str, nbytes: int) -> None:
    """Checks the length of bytes that are kept outside of the tensor."""
    expected = expected_bytes(tensor, where)
    if nbytes != expected:
        raise _length(tensor, where, nbytes, expected)


def has_values(tensor: TensorProto) -> bool:
    """True if the tensor itself carries values, in whichever field."""
    return bool(tensor.raw_data) or any(len(getattr(tensor, name)) for name in _TYPED_FIELDS)


def inline_bytes(tensor: TensorProto) -> int:
    """Bytes of a checked inline tensor (an estimate for strings)."""
    if tensor.data_type == _T.STRING:
        return sum(map(len, tensor.string_data))
    return (prod(tensor.dims) * BITS[tensor.data_type] + 7) // 8


def to_raw(tensor: TensorProto) -> bytes:
    """Returns the raw form of a checked inline tensor."""
    if tensor.HasField("raw_data"):
        return bytes(tensor.raw_data)
    array: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = numpy_helper.to_array(tensor)
    return bytes(numpy_helper.from_array(array).raw_data)


def _typed_count(data_type: int, count: int) -> int:
    """Number of entries in the typed field for ``count`` elements."""
    if data_type in (_T.COMPLEX64, _T.COMPLEX128):
        return 2 * count
    bits = BITS.get(data_type, 8)
    return (count * bits + 7) // 8 if bits in (2, 4) else count


def _shape(dims: object) -> str:
    """Shows dimensions; a hostile tensor may have thousands."""
    return printable(str(list(dims)), 80)  # type: ignore[call-overload]


def _bad(tensor: TensorProto, where: str, why: str) -> InvalidModelError:
    """The error for a tensor that contradicts itself."""
    return InvalidModelError(
        f"tensor '{printable(tensor.name)}' in {where} is invalid",
        why=why,
        hint="the file is damaged or was written by a faulty exporter; export the model again",
    )


def _length(tensor: TensorProto, where: str, nbytes: int, expected: int) -> InvalidModelError:
    """The error for raw data of a wrong length."""
    name = TensorProto.DataType.Name(tensor.data_type)
    return _bad(
        tensor, where, f"has {nbytes:,} bytes, but {name} {_shape(tensor.dims)} needs {expected:,}"
    )
