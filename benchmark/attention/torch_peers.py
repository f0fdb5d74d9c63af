"""scaled_dot_product_attention of torch, and what torchao has."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.attention.case import Case, Operands, causal_mask
from benchmark.attention.contestant import (
    BFLOAT16_ERROR,
    FLOAT32_ERROR,
    Absent,
    Contestant,
    Entry,
    Offer,
)

Array = npt.NDArray[Any]


def prefill(case: Case, operands: Operands, threads: int) -> Iterator[Entry]:
    """Float32 and bfloat16; grouped heads as torch takes them."""
    if importlib.util.find_spec("torch") is None:
        yield Absent("torch", "not installed")
        return
    import torch

    torch.set_num_threads(threads)
    for dtype, worst in ((torch.float32, FLOAT32_ERROR), (torch.bfloat16, BFLOAT16_ERROR)):
        q, k, v = _tensors(operands, dtype)
        yield _sdpa(f"torch {_name(dtype)}", q, k, v, case, worst, is_causal=case.causal)
    yield _torchao()


def decode(case: Case, operands: Operands, threads: int) -> Iterator[Entry]:
    """The same over a cache that has the new tokens already, and with the heads of a group as rows of one head."""
    if importlib.util.find_spec("torch") is None:
        yield Absent("torch", "not installed")
        return
    import torch

    torch.set_num_threads(threads)
    for dtype, worst in ((torch.float32, FLOAT32_ERROR), (torch.bfloat16, BFLOAT16_ERROR)):
        q, k, v = _tensors(operands, dtype)
        size = float(2 * k.element_size() * k.numel())
        mask = None
        if case.queries > 1:
            mask = torch.from_numpy(causal_mask(case.queries, case.keys)).to(dtype)
        yield _sdpa(f"torch {_name(dtype)}", q, k, v, case, worst, size=size, attn_mask=mask)
        if case.group == 1:
            continue
        rows = q.reshape(case.batch, case.kv_heads, case.group * case.queries, case.channels)
        many = None if mask is None else mask.repeat(case.group, 1)
        yield _sdpa(
            f"torch {_name(dtype)}, grouped", rows, k, v, case, worst, size=size, attn_mask=many
        )


def _sdpa(
    name: str,
    q: Any,
    k: Any,
    v: Any,
    case: Case,
    worst: float,
    *,
    size: float = 0.0,
    **options: Any,
) -> Offer:
    import torch

    attend: Callable[..., Any] = torch.nn.functional.scaled_dot_product_attention
    grouped = q.shape[1] != k.shape[1]
    last: list[Any] = []

    def run() -> None:
        with torch.inference_mode():
            last[:] = [attend(q, k, v, enable_gqa=grouped, **options)]

    def output() -> Array:
        result: Array = last[0].float().numpy()
        return result.reshape(case.batch, case.heads, case.queries, case.channels)

    return Offer(name, lambda: Contestant(name, run, output, worst, size))


def _torchao() -> Absent:
    """Its int8 attention is an operator whose CPU kernel only a build from source has."""
    name = "torchao int8"
    if importlib.util.find_spec("torchao") is None:
        return Absent(name, "not installed")
    import torch
    import torchao

    try:
        torch.ops.torchao.qscaled_dot_product  # noqa: B018 (asks whether it exists)
        there = torch._C._dispatch_has_kernel_for_dispatch_key(
            "torchao::qscaled_dot_product", "CPU"
        )
    except (AttributeError, RuntimeError):
        there = False
    if there:
        return Absent(
            name, f"torchao {torchao.__version__} has a CPU kernel, which is not called here"
        )
    return Absent(name, f"the wheel of torchao {torchao.__version__} ships no CPU kernel for it")


def _tensors(operands: Operands, dtype: Any) -> list[Any]:
    import torch

    arrays = (operands.query, operands.key, operands.value)
    return [torch.from_numpy(np.ascontiguousarray(array)).to(dtype) for array in arrays]


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
