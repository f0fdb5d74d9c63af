"""The C interface of the kernel library (custom_ops/include/qfa/qfa.h, version 3) through ctypes.

A `Call` is filled once; running it costs a microsecond more than the kernel itself.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from qfa_passes.runtime.library import get_library_path, open_library

Array = npt.NDArray[Any]

HEADER: Final = Path(__file__).parents[2] / "custom_ops" / "include" / "qfa" / "qfa.h"


def _numbers(prefix: str) -> dict[str, int]:
    """Values of an enumeration of the header, by what their names have behind a prefix."""
    found = re.findall(rf"\b{prefix}(\w+) = (\d+)", HEADER.read_text(encoding="utf-8"))
    return {name.lower(): int(number) for name, number in found}


COMPUTE: Final = _numbers("QFA_COMPUTE_")
KV_FORMAT: Final = _numbers("QFA_KV_")
INT4_KEY_GROUP: Final = 32
_DTYPE: Final = {"float32": 0, "float16": 1, "bfloat16": 2}


class TensorView(ctypes.Structure):
    """qfa_tensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("batch_stride", ctypes.c_int64),
        ("head_stride", ctypes.c_int64),
        ("row_stride", ctypes.c_int64),
    )


class Target(ctypes.Structure):
    """qfa_target."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("batch_stride", ctypes.c_int64),
        ("head_stride", ctypes.c_int64),
        ("row_stride", ctypes.c_int64),
    )


class Codes(ctypes.Structure):
    """qfa_codes."""

    _fields_ = (
        ("codes", ctypes.c_void_p),
        ("codes_strides", ctypes.c_int64 * 3),
        ("scale", ctypes.c_void_p),
        ("zero_point", ctypes.c_void_p),
        ("scale_strides", ctypes.c_int64 * 3),
        ("open", ctypes.c_void_p),
        ("open_strides", ctypes.c_int64 * 3),
    )


class Mask(ctypes.Structure):
    """qfa_mask."""

    _fields_ = (("data", ctypes.c_void_p), ("strides", ctypes.c_int64 * 4))


class Executor(ctypes.Structure):
    """qfa_executor."""

    _fields_ = (
        ("context", ctypes.c_void_p),
        ("parallel_for", ctypes.c_void_p),
        ("threads", ctypes.c_int32),
    )


ALLOCATE: Final = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
RELEASE: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)


class Allocator(ctypes.Structure):
    """qfa_allocator."""

    _fields_ = (("context", ctypes.c_void_p), ("allocate", ALLOCATE), ("release", RELEASE))


class Attention(ctypes.Structure):
    """qfa_attention."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("batch", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("kv_heads", ctypes.c_int64),
        ("query_length", ctypes.c_int64),
        ("key_length", ctypes.c_int64),
        ("qk_channels", ctypes.c_int64),
        ("v_channels", ctypes.c_int64),
        ("query", TensorView),
        ("key", TensorView),
        ("value", TensorView),
        ("mask", Mask),
        ("bias", Mask),
        ("bias_dtype", ctypes.c_int32),
        ("scale", ctypes.c_float),
        ("is_causal", ctypes.c_int32),
        ("causal_offset", ctypes.c_int64),
        ("q_scale", ctypes.c_void_p),
        ("q_scale_count", ctypes.c_int64),
        ("k_scale", ctypes.c_void_p),
        ("k_scale_count", ctypes.c_int64),
        ("v_scale", ctypes.c_void_p),
        ("v_scale_count", ctypes.c_int64),
        ("k_mean", ctypes.c_void_p),
        ("rotation", ctypes.c_int32),
        ("output", ctypes.c_void_p),
        ("output_batch_stride", ctypes.c_int64),
        ("output_head_stride", ctypes.c_int64),
        ("output_row_stride", ctypes.c_int64),
        ("compute", ctypes.c_int32),
        ("softcap", ctypes.c_float),
        ("queries_at_end", ctypes.c_int32),
        ("has_left_window", ctypes.c_int32),
        ("has_right_window", ctypes.c_int32),
        ("sink_per_head", ctypes.c_int32),
        ("left_window", ctypes.c_int64),
        ("right_window", ctypes.c_int64),
        ("kv_length", ctypes.c_void_p),
        ("kv_length_count", ctypes.c_int64),
        ("sink", ctypes.c_void_p),
        ("sink_dtype", ctypes.c_int32),
        ("past_length", ctypes.c_int64),
        ("past_key", TensorView),
        ("past_value", TensorView),
        ("present_key", Target),
        ("present_value", Target),
        ("kv_format", ctypes.c_int32),
        ("past_keys", Codes),
        ("past_values", Codes),
        ("present_keys", Codes),
        ("present_values", Codes),
        ("v_group", ctypes.c_int64),
        ("k_channel_scale", ctypes.c_void_p),
        ("v_channel_scale", ctypes.c_void_p),
        ("kv_shared", ctypes.c_int32),
    )


class KernelError(RuntimeError):
    """The kernel refused a request; its message."""


class Call:
    """One request, ready to run again and again.

    Attributes:
        request: The struct; what it points at is kept alive by the call.
        output: (B, H, S, Dv), of the type of the query.
    """

    def __init__(self, query: Array, key: Array, value: Array, *, scale: float) -> None:
        """Takes Q (B, H, S, D), and K (B, Hkv, T, D) and V (B, Hkv, T, Dv): the new ones where there is a cache."""
        batch, heads, rows, channels = query.shape
        _, kv_heads, keys, v_channels = value.shape
        self._kept: list[object] = []
        self._library = open_library(Path(get_library_path()))
        self._message = ctypes.c_char_p()
        self._executor: Executor | None = None
        self._allocator: Allocator | None = None
        self.output = aligned_empty((batch, heads, rows, v_channels), query.dtype)
        self.request = Attention(
            struct_size=ctypes.sizeof(Attention),
            batch=batch,
            heads=heads,
            kv_heads=kv_heads,
            query_length=rows,
            key_length=keys,
            qk_channels=channels,
            v_channels=v_channels,
            query=self.view(query),
            key=self.view(key),
            value=self.view(value),
            scale=scale,
        )
        self.request.output = self.pointer(self.output)
        strides = element_strides(self.output)
        self.request.output_batch_stride = strides[0]
        self.request.output_head_stride = strides[1]
        self.request.output_row_stride = strides[2]

    def pointer(self, array: Array) -> int:
        """The address of an array that must live as long as the call."""
        self._kept.append(array)
        return int(array.ctypes.data)

    def view(self, array: Array) -> TensorView:
        """An array as an input."""
        return TensorView(
            self.pointer(array), _DTYPE[array.dtype.name], *element_strides(array)[:3]
        )

    def target(self, array: Array) -> Target:
        """An array as an output."""
        return Target(self.pointer(array), *element_strides(array)[:3])

    def use_threads(self, threads: int, context: int, parallel_for: object) -> None:
        """Runs on the threads of a pool from now on."""
        address = ctypes.cast(parallel_for, ctypes.c_void_p)  # type: ignore[arg-type]
        self._executor = Executor(context, address, threads)

    def use_allocator(
        self, allocate: Callable[[object, int], int | None], release: Callable[[object, int], None]
    ) -> None:
        """Asks these functions for scratch memory from now on."""
        self._allocator = Allocator(None, ALLOCATE(allocate), RELEASE(release))

    def prepare(self, isa: int = 0) -> Callable[[], None]:
        """Fixes everything and returns what runs the request.

        Returns:
            A function that raises `KernelError` when the kernel refuses.
        """
        run = self._library.qfa_attention_run
        run.restype = ctypes.c_int32
        arguments = (
            ctypes.byref(self.request),
            ctypes.c_int32(isa),
            ctypes.byref(self._executor) if self._executor else None,
            ctypes.byref(self._allocator) if self._allocator else None,
            ctypes.byref(self._message),
        )

        def call() -> None:
            if run(*arguments):
                raise KernelError((self._message.value or b"").decode())

        return call


def element_strides(array: Array) -> tuple[int, ...]:
    """Strides of an array in elements."""
    return tuple(stride // array.itemsize for stride in array.strides)


def aligned_empty(shape: tuple[int, ...], dtype: npt.DTypeLike, alignment: int = 64) -> Array:
    """Memory that starts at a cache line."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    memory = np.zeros(size + alignment, dtype=np.uint8)
    start = -memory.ctypes.data % alignment
    return memory[start : start + size].view(kind).reshape(shape)
