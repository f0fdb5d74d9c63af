"""A key/value cache of the operator in numpy: how tokens are coded, and what attention then sees.

Tensors have the names and shapes of the operator's, without past_ and present_. Letters: B batch,
Hkv key/value heads, C tokens in the cache, T new ones, D and Dv channels of keys and values.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from qfa_passes.core.formats import CacheFormat
from qfa_passes.core.opspec import KEY_GROUP
from qfa_passes.quant import float8, hadamard, int4, int8

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]

FLOAT8: Final = {CacheFormat.FP8E4M3: float8.E4M3, CacheFormat.FP8E5M2: float8.E5M2}


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheCoding:
    """How tokens become codes.

    Attributes:
        form: What the cache holds.
        key_scale: int8: None (one scale per token, found from it), or (Hkv, D), given.
        value_scale: Likewise, (Hkv, Dv).
        group: int4: Channels that share a scale of V.
        k_mean: int8, int4: (Hkv, D), subtracted from keys first.
        rotate: int8, int4: Keys pass a Hadamard transform first.
    """

    form: CacheFormat
    key_scale: npt.ArrayLike | None = None
    value_scale: npt.ArrayLike | None = None
    group: int = 32
    k_mean: npt.ArrayLike | None = None
    rotate: bool = False

    def prepare(self, key: Array) -> int8.Float:
        """Returns keys (B, Hkv, T, D) as they are coded: without their mean, rotated."""
        values = key.astype(np.float32)
        if self.form not in (CacheFormat.INT8, CacheFormat.INT4):
            return values
        if self.k_mean is not None:
            values = values - np.asarray(self.k_mean, np.float32)[:, None, :]
        return hadamard.transform(values) if self.rotate else values


@dataclass(frozen=True, slots=True)
class KeyValueCache:
    """The tokens of B sequences of one length, as the operator holds them.

    Attributes:
        coding: How they were coded.
        tensors: key, value and, as the format has them, key_scale, value_scale, key_zero_point,
            value_zero_point and key_open; float: numbers of the type that was given.
        v_channels: Dv, which an odd number of packed codes does not tell.
    """

    coding: CacheCoding
    tensors: Tensors
    v_channels: int

    @classmethod
    def of(cls, coding: CacheCoding, key: Array, value: Array) -> "KeyValueCache":
        """Codes keys (B, Hkv, C, D) and values (B, Hkv, C, Dv), oldest first."""
        return cls(coding, _CODERS[coding.form](coding, key, value), value.shape[3])

    def decode(self) -> tuple[int8.Float, int8.Float]:
        """Returns the keys, as ``CacheCoding.prepare`` left them, and the values that attention sees."""
        key, value = _DECODERS[self.coding.form](self.coding, self.tensors)
        return key, value[..., : self.v_channels]


def append(cache: KeyValueCache, key: Array, value: Array) -> KeyValueCache:
    """Returns the cache with T more tokens, (B, Hkv, T, D) and (B, Hkv, T, Dv); old codes stay as they are."""
    old = cache.tensors
    if cache.coding.form is not CacheFormat.INT4:
        new = KeyValueCache.of(cache.coding, key, value).tensors
        joined = {name: np.concatenate([old[name], new[name]], axis=2) for name in new}
        return replace(cache, tensors=joined)
    # Values are coded one by one, keys in groups: the open group is coded with the new ones.
    done = old["key"].shape[2] // KEY_GROUP * KEY_GROUP
    waiting = old["key_open"][:, :, : old["key"].shape[2] - done]
    tail = np.concatenate([waiting, key], axis=2)
    filler = np.zeros((*value.shape[:2], waiting.shape[2], value.shape[3]), value.dtype)
    new = KeyValueCache.of(cache.coding, tail, np.concatenate([filler, value], axis=2)).tensors
    joined = {"key_open": new["key_open"]}
    for name, array in new.items():
        if name in ("key", "key_scale", "key_zero_point"):
            kept = done if name == "key" else done // KEY_GROUP
            joined[name] = np.concatenate([old[name][:, :, :kept], array], axis=2)
        elif name != "key_open":
            fresh = array[:, :, waiting.shape[2] :]
            joined[name] = np.concatenate([old[name], fresh], axis=2)
    return replace(cache, tensors=joined)


def _code_float(coding: CacheCoding, key: Array, value: Array) -> Tensors:
    return {"key": key, "value": value}


def _decode_float(coding: CacheCoding, t: Tensors) -> tuple[int8.Float, int8.Float]:
    return t["key"].astype(np.float32), t["value"].astype(np.float32)


def _code_int8(coding: CacheCoding, key: Array, value: Array) -> Tensors:
    rows = {"key": coding.prepare(key), "value": value.astype(np.float32)}
    tensors: dict[str, Array] = {}
    for name, given in (("key", coding.key_scale), ("value", coding.value_scale)):
        if given is None:
            tensors[name], scale = int8.quantize(rows[name])
            zero = ~rows[name].any(axis=-1)
            tensors[f"{name}_scale"] = np.where(zero, np.float32(0), scale[..., 0])
        else:
            steps = np.asarray(given, np.float32)[:, None, :]
            tensors[name], _ = int8.quantize_static(rows[name], steps)
    return tensors


def _decode_int8(coding: CacheCoding, t: Tensors) -> tuple[int8.Float, int8.Float]:
    def decoded(name: str, given: npt.ArrayLike | None) -> int8.Float:
        by_token = given is None
        scale = t[f"{name}_scale"][..., None] if by_token else np.asarray(given)[:, None, :]
        return int8.dequantize(t[name], scale.astype(np.float32))

    return decoded("key", coding.key_scale), decoded("value", coding.value_scale)


def _code_float8(coding: CacheCoding, key: Array, value: Array) -> Tensors:
    tensors: dict[str, Array] = {}
    for name, rows in (("key", key), ("value", value)):
        tensors[name], scale = float8.quantize(rows, FLOAT8[coding.form])
        tensors[f"{name}_scale"] = scale[..., 0]
    return tensors


def _decode_float8(coding: CacheCoding, t: Tensors) -> tuple[int8.Float, int8.Float]:
    key, value = (
        float8.dequantize(t[name], t[f"{name}_scale"][..., None], FLOAT8[coding.form])
        for name in ("key", "value")
    )
    return key, value


def _code_int4(coding: CacheCoding, key: Array, value: Array) -> Tensors:
    tokens = key.shape[2]
    groups, done = -(-tokens // KEY_GROUP), tokens // KEY_GROUP * KEY_GROUP
    full = coding.prepare(key[:, :, :done])
    grouped = full.reshape(*full.shape[:2], done // KEY_GROUP, KEY_GROUP, full.shape[3])
    codes, scale, zero_point = int4.quantize(grouped, 3)
    v_codes, v_scale, v_zero_point = int4.quantize_rows(value, coding.group)

    def held(array: Array, rows: int) -> Array:
        """With zeros up to ``rows``: what belongs to the open group means nothing."""
        missing = rows - array.shape[2]
        return np.pad(array, [(0, 0), (0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 3))

    return {
        "key": held(int4.pack(codes.reshape(full.shape)), tokens),
        "value": int4.pack(v_codes),
        "key_scale": held(scale[:, :, :, 0], groups),
        "value_scale": v_scale,
        "key_zero_point": held(zero_point[:, :, :, 0], groups),
        "value_zero_point": v_zero_point,
        "key_open": held(key[:, :, done:], KEY_GROUP),
    }


def _decode_int4(coding: CacheCoding, t: Tensors) -> tuple[int8.Float, int8.Float]:
    tokens, channels = t["key"].shape[2], t["key_open"].shape[3]
    done = tokens // KEY_GROUP * KEY_GROUP
    scale, zero_point = (
        t[name][:, :, : done // KEY_GROUP].repeat(KEY_GROUP, axis=2)
        for name in ("key_scale", "key_zero_point")
    )
    coded = int4.dequantize(int4.unpack(t["key"][:, :, :done], channels), scale, zero_point)
    waiting = coding.prepare(t["key_open"][:, :, : tokens - done])
    values = int4.unpack(t["value"], 2 * t["value"].shape[-1])
    decoded = int4.dequantize_rows(values, t["value_scale"], t["value_zero_point"], coding.group)
    return np.concatenate([coded, waiting], axis=2), decoded


_CODERS: Final[dict[CacheFormat, Callable[[CacheCoding, Array, Array], Tensors]]] = {
    CacheFormat.FLOAT: _code_float,
    CacheFormat.INT8: _code_int8,
    CacheFormat.INT4: _code_int4,
    CacheFormat.FP8E4M3: _code_float8,
    CacheFormat.FP8E5M2: _code_float8,
}
_DECODERS: Final[
    dict[CacheFormat, Callable[[CacheCoding, Tensors], tuple[int8.Float, int8.Float]]]
] = {
    CacheFormat.FLOAT: _decode_float,
    CacheFormat.INT8: _decode_int8,
    CacheFormat.INT4: _decode_int4,
    CacheFormat.FP8E4M3: _decode_float8,
    CacheFormat.FP8E5M2: _decode_float8,
}
