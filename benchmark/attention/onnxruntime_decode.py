"""Attention as ONNX Runtime offers it itself: new tokens against a cache."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import helper

from benchmark.attention.c_abi import aligned_empty
from benchmark.attention.case import Case, Operands, causal_mask
from benchmark.attention.contestant import (
    COARSE_ERROR,
    FLOAT32_ERROR,
    INT8_ERROR,
    Absent,
    Contestant,
    Entry,
    Offer,
)
from benchmark.attention.onnx_session import BoundSession, merged, split_heads
from benchmark.attention.onnxruntime_peers import coded_group_query_node, grouped_cache, lengths

Array = npt.NDArray[Any]


def decode(case: Case, operands: Operands, threads: int) -> Iterator[Entry]:
    """GroupQueryAttention with caches that it shares, MultiHeadAttention with a past, the operator over it all."""
    for bits in (32, 8, 4):
        name = "ORT GroupQueryAttention" + (f" int{bits} cache" if bits < 32 else "")
        yield Offer(name, partial(_group_query, name, case, operands, threads, bits))
    name = "ORT MultiHeadAttention, past"
    if case.heads == case.kv_heads:
        yield Offer(name, partial(_multi_head, name, case, operands, threads))
    else:
        yield Absent(name, "knows no grouped heads")
    name = "ORT Attention-23, whole cache"
    yield Offer(name, partial(_attention_23, name, case, operands, threads))


def _group_query(name: str, case: Case, operands: Operands, threads: int, bits: int) -> Contestant:
    """The new token is put into the buffer that is past and present at once."""
    more: dict[str, Array] = {}
    if bits == 32:
        node = helper.make_node(
            "GroupQueryAttention",
            ["q", "k", "v", "past_k", "past_v", "lengths", "total"],
            ["y", "present_k", "present_v"],
            domain="com.microsoft",
            num_heads=case.heads,
            kv_num_heads=case.kv_heads,
        )
        key, value = _buffer(operands.key), _buffer(operands.value)
        worst = FLOAT32_ERROR
    else:
        node = coded_group_query_node(case, bits, causal=True)
        key, value, more["k_scale"], more["v_scale"] = grouped_cache(case, operands, bits)
        worst = INT8_ERROR if bits == 8 else COARSE_ERROR
    q, output, new = _merged_new(case, operands)
    session = BoundSession(
        node,
        {"q": q, **new, "past_k": key, "past_v": value, **lengths(case), **more},
        {"y": output, "present_k": key, "present_v": value},
        threads,
    )
    split = split_heads(case.heads)
    return Contestant(
        name, session.run, lambda: split(output), worst, float(key.nbytes + value.nbytes)
    )


def _multi_head(name: str, case: Case, operands: Operands, threads: int) -> Contestant:
    """Past and present are two: the operator copies."""
    node = helper.make_node(
        "MultiHeadAttention",
        ["q", "k", "v", "", "", "", "past_k", "past_v"],
        ["y", "present_k", "present_v"],
        domain="com.microsoft",
        num_heads=case.heads,
        unidirectional=1,
    )
    first = case.keys - case.queries
    past = {
        f"past_{side}": np.ascontiguousarray(array[:, :, :first])
        for side, array in (("k", operands.key), ("v", operands.value))
    }
    q, output, new = _merged_new(case, operands)
    present = {
        name: aligned_empty(operands.key.shape, np.float32) for name in ("present_k", "present_v")
    }
    session = BoundSession(node, {"q": q, **new, **past}, {"y": output, **present}, threads)
    split = split_heads(case.heads)
    size = float(4 * case.cache_numbers)
    return Contestant(name, session.run, lambda: split(output), FLOAT32_ERROR, size)


def _attention_23(name: str, case: Case, operands: Operands, threads: int) -> Contestant:
    """K and V are the whole cache, the new tokens in it already."""
    names = ["q", "k", "v"]
    feeds = {"q": operands.query, "k": operands.key, "v": operands.value}
    if case.queries > 1:
        names.append("mask")
        feeds["mask"] = causal_mask(case.queries, case.keys)
    node = helper.make_node("Attention", names, ["y"], scale=case.scale)
    output = aligned_empty(operands.query.shape, np.float32)
    session = BoundSession(node, feeds, {"y": output}, threads)
    size = float(4 * case.cache_numbers)
    return Contestant(name, session.run, lambda: output, FLOAT32_ERROR, size)


def _merged_new(case: Case, operands: Operands) -> tuple[Array, Array, dict[str, Array]]:
    first = case.keys - case.queries
    q = merged(operands.query)
    new = {
        "k": merged(operands.key[:, :, first:]),
        "v": merged(operands.value[:, :, first:]),
    }
    return q, aligned_empty(q.shape, np.float32), new


def _buffer(array: Array) -> Array:
    buffer = aligned_empty(array.shape, array.dtype)
    buffer[...] = array
    return buffer
