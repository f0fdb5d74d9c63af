"""Ours through the C interface: the kernel alone, without a runtime around it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from benchmark.attention.c_abi import COMPUTE, Call
from benchmark.attention.cache import Cache
from benchmark.attention.case import Case, Operands
from benchmark.attention.contestant import (
    BFLOAT16_ERROR,
    COARSE_ERROR,
    FLOAT32_ERROR,
    INT8_ERROR,
    Contestant,
    Entry,
    Offer,
)
from benchmark.attention.native import limits_library, pool

Array = npt.NDArray[Any]


def prefill(case: Case, operands: Operands, threads: int) -> Iterator[Entry]:
    """Float32 in and out with any compute format, bfloat16 in and out, and K and V that are codes already."""
    yield _prefill("kernel int8", case, operands, threads)
    if threads > 1:
        yield _prefill("kernel int8, 1 thread", case, operands, 1)
    narrow = _converted(operands, ml_dtypes.bfloat16)
    yield _prefill("kernel int8, bfloat16 in and out", case, narrow, threads)
    yield Offer("kernel int8, K and V int8 already", partial(_from_codes, case, operands, threads))
    for compute in COMPUTE:
        if compute != "int8":
            yield _prefill(f"kernel {compute}", case, operands, threads, compute=compute)


def decode(case: Case, operands: Operands, threads: int) -> Iterator[Entry]:
    """A step with each kind of cache, and the reading of that cache's bytes."""
    kinds: tuple[tuple[str, str, Operands, float, dict[str, Any]], ...] = (
        ("int8", "int8", operands, INT8_ERROR, {}),
        ("int8 channel", "int8", operands, INT8_ERROR, {"per_channel": True}),
        ("int4", "int4", operands, COARSE_ERROR, {}),
        ("fp8e4m3", "fp8e4m3", operands, INT8_ERROR, {}),
        ("fp8e4m3 x fp8e4m3", "fp8e4m3", operands, INT8_ERROR, {"compute": "fp8e4m3"}),
        ("fp8e5m2", "fp8e5m2", operands, COARSE_ERROR, {}),
        ("bfloat16", "float", _converted(operands, ml_dtypes.bfloat16), BFLOAT16_ERROR, {}),
        ("float32", "float", operands, FLOAT32_ERROR, {}),
    )
    for name, kind, numbers, worst, options in kinds:
        make = partial(_filled, kind, case, numbers, threads, **options)
        cache = functools.cache(make)
        if not options:
            yield Offer(f"reading the {name} cache", partial(_stream, name, cache, threads))
        step = partial(_step, cache=cache, case=case, operands=numbers, worst=worst)
        title = f"kernel {name} cache"
        yield Offer(title, partial(step, title, threads=threads))
        if threads > 1 and name in ("int8", "int4"):
            alone = f"{title}, 1 thread"
            yield Offer(alone, partial(step, alone, threads=1))


def give_threads(call: Call, threads: int) -> Call:
    """Lets a call use the shared pool of that many threads."""
    if threads > 1:
        call.use_threads(threads, pool(threads), limits_library().qfa_limits_parallel_for)
    return call


def prefill_call(case: Case, operands: Operands, threads: int, compute: str = "int8") -> Call:
    """The request of a whole sequence that sees itself."""
    call = Call(operands.query, operands.key, operands.value, scale=case.scale)
    call.request.is_causal = int(case.causal)
    call.request.compute = COMPUTE[compute]
    return give_threads(call, threads)


def _prefill(
    name: str, case: Case, operands: Operands, threads: int, compute: str = "int8"
) -> Offer:
    def make() -> Contestant:
        call = prefill_call(case, operands, threads, compute)
        worst = {"float": FLOAT32_ERROR, "fp8e5m2": COARSE_ERROR}.get(compute, INT8_ERROR)
        return Contestant(name, call.prepare(), lambda: call.output.astype(np.float32), worst)

    return Offer(name, make)


def _filled(kind: str, case: Case, operands: Operands, threads: int, **options: Any) -> Cache:
    cache = Cache(kind, case, operands, **options)
    cache.fill(case, operands, threads)
    return cache


def _from_codes(case: Case, operands: Operands, threads: int) -> Contestant:
    """All keys in a cache of int8 codes: what is left of quantization is that of Q."""
    cache = _filled("int8", case, operands, threads)
    none = operands.key[:, :, :0]
    call = Call(operands.query, none, none, scale=case.scale)
    call.request.is_causal = int(case.causal)
    cache.attach(call, shared=False)
    give_threads(call, threads)
    return Contestant(
        "kernel int8, K and V int8 already", call.prepare(), lambda: call.output, INT8_ERROR
    )


def _step(
    name: str,
    *,
    cache: Callable[[], Cache],
    case: Case,
    operands: Operands,
    threads: int,
    worst: float,
) -> Contestant:
    buffers = cache()
    call = buffers.step(case, operands, threads)
    return Contestant(
        name, call.prepare(), lambda: call.output.astype(np.float32), worst, buffers.bytes
    )


def _stream(name: str, cache: Callable[[], Cache], threads: int) -> Contestant:
    library, context = limits_library(), pool(threads)
    arrays = cache().arrays()
    # The arrays stay where the addresses are: the cache may be dropped before this is.
    regions = [(array.ctypes.data, array.nbytes, array) for array in arrays]

    def run() -> None:
        for address, size, _ in regions:
            library.qfa_limits_read(context, address, size)

    size = float(sum(array.nbytes for array in arrays))
    return Contestant(f"reading the {name} cache", run, None, 0.0, size)


def _converted(operands: Operands, dtype: npt.DTypeLike) -> Operands:
    return Operands(
        *(array.astype(dtype) for array in (operands.query, operands.key, operands.value))
    )
