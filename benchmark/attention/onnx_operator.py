"""Ours as a model has it: the operator in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import helper

from benchmark.attention.c_abi import aligned_empty
from benchmark.attention.cache import Cache
from benchmark.attention.case import Case, Operands
from benchmark.attention.contestant import COARSE_ERROR, INT8_ERROR, Contestant, Entry, Offer
from benchmark.attention.onnx_session import BoundSession
from qfa_passes.core import opspec


def prefill(case: Case, operands: Operands, threads: int) -> Iterator[Entry]:
    """What `--format int8` writes: int8 products, dynamic scales, float32 in and out."""
    yield Offer("operator int8", partial(_prefill, "operator int8", case, operands, threads))
    if threads > 1:
        name = "operator int8, 1 thread"
        yield Offer(name, partial(_prefill, name, case, operands, 1))


def decode(case: Case, operands: Operands, threads: int) -> Iterator[Entry]:
    """Caches of codes that are past and present at once."""
    for kind, worst in (("int8", INT8_ERROR), ("int4", COARSE_ERROR)):
        name = f"operator {kind} cache"
        yield Offer(name, partial(_step, name, kind, case, operands, threads, worst))
        if threads > 1:
            alone = f"{name}, 1 thread"
            yield Offer(alone, partial(_step, alone, kind, case, operands, 1, worst))


def _node(case: Case, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(
        opspec.OP_TYPE,
        inputs,
        outputs,
        domain=opspec.DOMAIN,
        num_heads=case.heads,
        kv_num_heads=case.kv_heads,
        scale=case.scale,
        is_causal=int(case.causal),
        compute_format="int8",
        scale_mode="dynamic",
        rotate="none",
        schema_version=opspec.SCHEMA_VERSION,
        **attributes,
    )


def _prefill(name: str, case: Case, operands: Operands, threads: int) -> Contestant:
    feeds = {"query": operands.query, "key": operands.key, "value": operands.value}
    output = aligned_empty(operands.query.shape, np.float32)
    session = BoundSession(
        _node(case, list(feeds), ["output"]), feeds, {"output": output}, threads, library=True
    )
    return Contestant(name, session.run, lambda: output, INT8_ERROR)


def _step(
    name: str, kind: str, case: Case, operands: Operands, threads: int, worst: float
) -> Contestant:
    cache = Cache(kind, case, operands)
    cache.fill(case, operands, threads)
    first = case.keys - case.queries
    buffers = cache.tensors()
    feeds = {
        "query": operands.query,
        "key": np.ascontiguousarray(operands.key[:, :, first:]),
        "value": np.ascontiguousarray(operands.value[:, :, first:]),
        "kv_length": np.full(case.batch, case.keys, np.int64),
        **{f"past_{name}": array for name, array in buffers.items()},
    }
    output = aligned_empty(operands.query.shape, np.float32)
    results = {"output": output, **{f"present_{name}": array for name, array in buffers.items()}}
    node = _node(
        case,
        [spec.name if spec.name in feeds else "" for spec in opspec.INPUTS],
        [spec.name if spec.name in results else "" for spec in opspec.OUTPUTS],
        kv_format=kind,
        kv_update="shared",
        queries_at_end=1,
    )
    session = BoundSession(node, feeds, results, threads, library=True)
    return Contestant(name, session.run, lambda: output, worst, cache.bytes)
