"""A key/value cache of the kernel, of any format, that is appended to in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.attention.c_abi import (
    COMPUTE,
    INT4_KEY_GROUP,
    KV_FORMAT,
    Call,
    Codes,
    aligned_empty,
    element_strides,
)
from benchmark.attention.case import Case, Operands
from benchmark.attention.native import limits_library, pool

Array = npt.NDArray[Any]


class Cache:
    """Buffers for T tokens of every key/value head.

    Attributes:
        kind: One of `KV_FORMAT`.
    """

    def __init__(
        self,
        kind: str,
        case: Case,
        operands: Operands,
        *,
        per_channel: bool = False,
        compute: str = "",
    ) -> None:
        """Makes empty buffers.

        Args:
            kind: One of `KV_FORMAT`.
            case: For its extents.
            operands: Their type is that of a float cache; scales per channel are theirs.
            per_channel: Scales (Hkv, D), known in advance, instead of one per token.
            compute: One of `COMPUTE`; by default int8 for caches of integers, else float.
        """
        self.kind = kind
        self._compute = compute or ("int8" if kind.startswith("int") else "float")
        self._rows = case.keys
        heads = (case.batch, case.kv_heads)
        groups = -(-case.keys // INT4_KEY_GROUP)
        channels = case.channels
        self._parts: dict[str, Array] = {}
        self._channel_scales: list[Array] = []
        shapes: dict[str, tuple[tuple[int, ...], npt.DTypeLike]] = {}
        for side in ("key", "value"):
            if kind == "float":
                shapes[side] = ((case.keys, channels), operands.key.dtype)
                continue
            width = channels // 2 if kind == "int4" else channels
            shapes[side] = ((case.keys, width), np.int8 if kind == "int8" else np.uint8)
            if kind == "int4":
                scales = (groups, channels) if side == "key" else (case.keys, channels // 32)
                shapes[f"{side}_scale"] = (scales, np.float16)
                shapes[f"{side}_zero"] = (scales, np.int8)
            elif not per_channel:
                shapes[f"{side}_scale"] = ((case.keys, 1), np.float32)
        if kind == "int4":
            shapes["key_open"] = ((INT4_KEY_GROUP, channels), operands.key.dtype)
        for name, (shape, dtype) in shapes.items():
            self._parts[name] = aligned_empty((*heads, *shape), dtype)
        if per_channel:
            self._channel_scales = [
                np.ascontiguousarray(np.abs(array).max(axis=(0, 2)) / 127, dtype=np.float32)
                for array in (operands.key, operands.value)
            ]

    @property
    def bytes(self) -> float:
        """What a step must read of it."""
        return float(sum(array.nbytes for array in self.arrays()))

    def arrays(self) -> list[Array]:
        """All that a step reads, but for keys that wait for their group."""
        return [array for name, array in self._parts.items() if name != "key_open"]

    def tensors(self) -> dict[str, Array]:
        """The same memory by the names that inputs and outputs of the operator have behind past_ and present_."""
        names = {"key_zero": "key_zero_point", "value_zero": "value_zero_point"}
        return {
            names.get(name, name): array[..., 0]
            if array.dtype == np.float32 and "scale" in name
            else array
            for name, array in self._parts.items()
        }

    def fill(self, case: Case, operands: Operands, threads: int) -> None:
        """Lets the kernel put all tokens but the S new ones in (all of them where T = S)."""
        count = case.keys - case.queries if case.decode else case.keys
        if count == 0:
            return
        key, value = (array[:, :, :count] for array in (operands.key, operands.value))
        call = Call(np.ascontiguousarray(operands.query[:, :, :1]), key, value, scale=case.scale)
        self._run_as(call, case.batch, count, threads)
        call.prepare()()

    def step(self, case: Case, operands: Operands, threads: int) -> Call:
        """The request that puts the S newest tokens in, again and again, and attends to all."""
        first = case.keys - case.queries
        key, value = (
            np.ascontiguousarray(array[:, :, first:]) for array in (operands.key, operands.value)
        )
        call = Call(operands.query, key, value, scale=case.scale)
        self._run_as(call, case.batch, case.keys, threads)
        return call

    def attach(self, call: Call, *, shared: bool) -> None:
        """Makes the buffers the past of a call, and its present if they are shared."""
        request, parts = call.request, self._parts
        request.past_length = self._rows
        request.kv_format = KV_FORMAT[self.kind]
        request.compute = COMPUTE[self._compute]
        request.v_group = 32 if self.kind == "int4" else 0
        if self.kind == "float":
            request.past_key, request.past_value = (
                call.view(parts["key"]),
                call.view(parts["value"]),
            )
            if shared:
                request.present_key = call.target(parts["key"])
                request.present_value = call.target(parts["value"])
            return
        request.past_keys, request.past_values = (
            self._codes(call, "key"),
            self._codes(call, "value"),
        )
        if shared:
            request.present_keys = self._codes(call, "key")
            request.present_values = self._codes(call, "value")
        if self._channel_scales:
            request.k_channel_scale, request.v_channel_scale = map(
                call.pointer, self._channel_scales
            )

    def _run_as(self, call: Call, batch: int, length: int, threads: int) -> None:
        """Shared buffers that hold `length` tokens once the new ones are in; the queries are the last ones."""
        self.attach(call, shared=True)
        lengths = np.full(batch, length, dtype=np.int64)
        call.request.kv_shared = 1
        call.request.kv_length = call.pointer(lengths)
        call.request.kv_length_count = batch
        call.request.is_causal = 1
        call.request.queries_at_end = 1
        if threads > 1:
            call.use_threads(threads, pool(threads), limits_library().qfa_limits_parallel_for)

    def _codes(self, call: Call, side: str) -> Codes:
        codes = Codes()
        for field, part in (("codes", side), ("scale", f"{side}_scale"), ("open", f"{side}_open")):
            if part in self._parts:
                array = self._parts[part]
                setattr(codes, field, call.pointer(array))
                getattr(codes, f"{field}_strides")[:] = element_strides(array)[:3]
        if f"{side}_zero" in self._parts:
            codes.zero_point = call.pointer(self._parts[f"{side}_zero"])
        return codes
