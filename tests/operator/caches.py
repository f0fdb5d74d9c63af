"""Nodes with a key/value cache: their tensors, and what attention over the cache must give."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import ModelProto

from qfa_passes.core import opspec
from qfa_passes.core.formats import CacheFormat
from qfa_passes.quant import hadamard
from qfa_passes.quant.attention import Quantization, attention_float64, attention_int8
from qfa_passes.quant.attention_int4 import MOST_ROWS, attention_int4
from qfa_passes.quant.cache import CacheCoding, KeyValueCache
from qfa_passes.quant.masking import Masking
from tests.operator.sessions import VALID, Array, one_node

KV_HEADS = 2
INT8, INT4, FLOAT = CacheFormat.INT8, CacheFormat.INT4, CacheFormat.FLOAT


def by_channel(channels: int, v_channels: int) -> CacheCoding:
    """Scales per channel that differ, and clamp some unit-normal numbers."""
    steps = np.random.default_rng(7).uniform(0.02, 0.04, (KV_HEADS, channels + v_channels))
    key_scale, value_scale = np.split(steps.astype(np.float32), [channels], axis=1)
    return CacheCoding(form=INT8, key_scale=key_scale, value_scale=value_scale)


def rotated(form: CacheFormat, channels: int) -> CacheCoding:
    """Keys without a mean, rotated."""
    mean = np.random.default_rng(8).standard_normal((KV_HEADS, channels)).astype(np.float32)
    return CacheCoding(form=form, k_mean=mean, rotate=True)


def codings(channels: int, v_channels: int) -> dict[str, CacheCoding]:
    """Every kind of cache, by name."""
    return {
        "float": CacheCoding(form=FLOAT),
        "int8": CacheCoding(form=INT8),
        "int8 rotated": rotated(INT8, channels),
        "int8 channel": by_channel(channels, v_channels),
        "int4": CacheCoding(form=INT4),
        "int4 rotated": rotated(INT4, channels),
        "fp8e4m3": CacheCoding(form=CacheFormat.FP8E4M3),
        "fp8e5m2": CacheCoding(form=CacheFormat.FP8E5M2),
    }


def scale_of(query: Array) -> float:
    """What unit-normal scores are multiplied by."""
    return float(query.shape[-1] ** -0.5)


def is_integer(coding: CacheCoding) -> bool:
    """Whether both products are computed on integers."""
    return coding.form in (INT8, INT4)


def attributes_of(coding: CacheCoding, **more: Any) -> dict[str, Any]:
    """Attributes of a node with such a cache; its queries are the last tokens."""
    return (
        VALID
        | {
            "is_causal": 1,
            "queries_at_end": 1,
            "compute_format": "int8" if is_integer(coding) else "float",
            "rotate": "hadamard" if coding.rotate else "none",
            "kv_format": coding.form.value,
            "kv_granularity": "token" if coding.key_scale is None else "channel",
            "group_size": coding.group,
        }
        | more
    )


def constants_of(coding: CacheCoding) -> dict[str, Array]:
    """Inputs that go with the coding itself."""
    given = {
        "k_mean": coding.k_mean,
        "past_key_scale": coding.key_scale,
        "past_value_scale": coding.value_scale,
    }
    return {name: np.asarray(x, np.float32) for name, x in given.items() if x is not None}


def past_of(cache: KeyValueCache) -> dict[str, Array]:
    """The cache as inputs of a node."""
    return {f"past_{name}": array for name, array in cache.tensors.items()}


def present_names(cache: KeyValueCache) -> list[str]:
    """All outputs of a node with such a cache, in the order of the schema, "" for those it has not."""
    names = [
        spec.name if spec.name.removeprefix("present_") in cache.tensors else ""
        for spec in opspec.OUTPUTS[1:]
    ]
    while not names[-1]:
        names.pop()
    return ["output", *names]


def cache_node(cache: KeyValueCache, inputs: Mapping[str, Array], **more: Any) -> ModelProto:
    """A model of one node that reads `cache` and gives the next."""
    types = {f"present_{name}": array for name, array in cache.tensors.items()}
    return one_node(
        inputs,
        attributes_of(cache.coding, **({"scale": scale_of(inputs["query"])} | more)),
        outputs=present_names(cache),
        output_types=types,
    )


def attend(query: Array, cache: KeyValueCache, **masking: Any) -> tuple[Array, Array | None]:
    """What attention over the decoded cache gives: in float64, and where one is stated by definition.

    Args:
        query: (B, H, S, D), the last tokens of the cache unless ``masking`` says otherwise.
        cache: With the tokens of the queries.
        masking: Of `Masking`.
    """
    coding = cache.coding
    key, value = cache.decode()
    mask = Masking(**{"causal": True, "queries_at_end": True} | masking)
    scale, turned = scale_of(query), query.astype(np.float32)
    if coding.rotate:
        turned, scale = hadamard.transform(turned), scale / hadamard.block_length(query.shape[3])
    exact = attention_float64(turned, key, value, scale=scale, masking=mask)
    if not is_integer(coding):
        return exact, None
    rows = query.shape[1] // KV_HEADS * query.shape[2]
    if coding.form is INT4 and rows <= MOST_ROWS:
        return exact, attention_int4(query, cache, scale=scale_of(query), masking=mask)
    if coding.key_scale is None:
        return exact, attention_int8(turned, key, value, scale=scale, masking=mask)
    group = query.shape[1] // KV_HEADS
    k_steps, v_steps = (
        np.asarray(steps).repeat(group, axis=0)[:, None, :]
        for steps in (coding.key_scale, coding.value_scale)
    )
    codes = (cache.tensors[name].astype(np.float32) for name in ("key", "value"))
    output = attention_int8(
        turned * k_steps,
        *codes,
        scale=scale,
        masking=mask,
        quantization=Quantization(k_scale=1.0, v_scale=1.0),
    )
    return exact, output * v_steps
