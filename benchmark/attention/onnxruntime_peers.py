"""Attention as ONNX Runtime offers it itself: prefill.

Every peer gets its native layout. GroupQueryAttention quantizes into an empty cache that it shares.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from benchmark.attention.c_abi import aligned_empty
from benchmark.attention.case import Case, Operands, causal_mask, largest_weight
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

Array = npt.NDArray[Any]

_MOST_BYTES: Final = 3 << 30
"""Score matrices larger than this are not asked for."""


def prefill(case: Case, operands: Operands, threads: int) -> Iterator[Entry]:
    """All operators, and attention written out, in float32 and as quantize_static leaves it."""
    matrix = 4 * case.batch * case.heads * case.queries * case.keys
    written_out = ("ORT Attention-23", "ORT unfused", "ORT unfused QDQ")
    if 2 * matrix > _MOST_BYTES:
        reason = f"its scores would take {2 * matrix / 2**30:.0f} GiB"
        yield from (Absent(name, reason) for name in written_out)
    else:
        makers = (_attention_23, _unfused, _unfused_qdq)
        for name, make in zip(written_out, makers, strict=True):
            yield Offer(name, partial(make, case, operands, threads))
    if case.heads == case.kv_heads:
        name = "ORT MultiHeadAttention"
        yield Offer(name, partial(_multi_head, case, operands, threads))
    else:
        yield Absent("ORT MultiHeadAttention", "knows no grouped heads")
    name = "ORT GroupQueryAttention"
    yield Offer(name, partial(_group_query, case, operands, threads))
    for bits in (8, 4):
        make = partial(_group_query_coded, case, operands, threads, bits)
        yield Offer(f"{name} int{bits} cache", make)


def grouped_cache(case: Case, operands: Operands, bits: int) -> tuple[Array, Array, Array, Array]:
    """Codes of K and V, (B, Hkv, T, D) or half as wide, and their scales, one for the tensor, from its range."""
    most = 127 if bits == 8 else 7
    arrays = []
    scales = []
    for numbers in (operands.key, operands.value):
        scale = np.float32(np.abs(numbers).max() / most)
        codes = np.clip(np.rint(numbers / scale), -most, most).astype(np.int8)
        if bits == 4:
            nibbles = (codes + 8).astype(np.uint8)
            codes = nibbles[..., ::2] | nibbles[..., 1::2] << 4
        buffer = aligned_empty(codes.shape, codes.dtype)
        buffer[...] = codes
        arrays.append(buffer)
        scales.append(np.array([scale], np.float32))
    return arrays[0], arrays[1], scales[0], scales[1]


def coded_group_query_node(case: Case, bits: int, *, causal: bool) -> onnx.NodeProto:
    """GroupQueryAttention with a cache of codes."""
    return helper.make_node(
        "GroupQueryAttention",
        ["q", "k", "v", "past_k", "past_v", "lengths", "total", *[""] * 5, "k_scale", "v_scale"],
        ["y", "present_k", "present_v"],
        domain="com.microsoft",
        num_heads=case.heads,
        kv_num_heads=case.kv_heads,
        causal=int(causal),
        k_quant_type="PER_TENSOR",
        v_quant_type="PER_TENSOR",
        kv_cache_bit_width=bits,
    )


def _attention_23(case: Case, operands: Operands, threads: int) -> Contestant:
    node = helper.make_node(
        "Attention", ["q", "k", "v"], ["y"], is_causal=int(case.causal), scale=case.scale
    )
    output = aligned_empty(operands.query.shape, np.float32)
    feeds = {"q": operands.query, "k": operands.key, "v": operands.value}
    session = BoundSession(node, feeds, {"y": output}, threads)
    return Contestant("ORT Attention-23", session.run, lambda: output, FLOAT32_ERROR)


def _multi_head(case: Case, operands: Operands, threads: int) -> Contestant:
    node = helper.make_node(
        "MultiHeadAttention",
        ["q", "k", "v"],
        ["y"],
        domain="com.microsoft",
        num_heads=case.heads,
        unidirectional=int(case.causal),
    )
    return _merged_heads("ORT MultiHeadAttention", node, case, operands, threads)


def _group_query(case: Case, operands: Operands, threads: int) -> Contestant:
    node = helper.make_node(
        "GroupQueryAttention",
        ["q", "k", "v", "", "", "lengths", "total"],
        ["y", "present_k", "present_v"],
        domain="com.microsoft",
        num_heads=case.heads,
        kv_num_heads=case.kv_heads,
        causal=int(case.causal),
    )
    present = {
        name: aligned_empty(operands.key.shape, np.float32) for name in ("present_k", "present_v")
    }
    more = lengths(case)
    return _merged_heads(
        "ORT GroupQueryAttention", node, case, operands, threads, more=more, present=present
    )


def _group_query_coded(case: Case, operands: Operands, threads: int, bits: int) -> Contestant:
    key, value, k_scale, v_scale = grouped_cache(case, operands, bits)
    more = {**lengths(case), "past_k": key, "past_v": value, "k_scale": k_scale, "v_scale": v_scale}
    return _merged_heads(
        f"ORT GroupQueryAttention int{bits} cache",
        coded_group_query_node(case, bits, causal=case.causal),
        case,
        operands,
        threads,
        more=more,
        present={"present_k": key, "present_v": value},
        worst=INT8_ERROR if bits == 8 else COARSE_ERROR,
    )


def lengths(case: Case) -> dict[str, Array]:
    """The two inputs by which GroupQueryAttention learns how many keys there are."""
    return {
        "lengths": np.full(case.batch, case.keys - 1, dtype=np.int32),
        "total": np.array(case.keys, dtype=np.int32),
    }


def _merged_heads(
    name: str,
    node: onnx.NodeProto,
    case: Case,
    operands: Operands,
    threads: int,
    *,
    more: dict[str, Array] | None = None,
    present: dict[str, Array] | None = None,
    worst: float = FLOAT32_ERROR,
) -> Contestant:
    q, k, v = (merged(array) for array in (operands.query, operands.key, operands.value))
    output = aligned_empty(q.shape, np.float32)
    session = BoundSession(
        node,
        {"q": q, "k": k, "v": v, **(more or {})},
        {"y": output, **(present or {})},
        threads,
    )
    split = split_heads(case.heads)
    return Contestant(name, session.run, lambda: split(output), worst)


def _unfused(case: Case, operands: Operands, threads: int) -> Contestant:
    nodes, constants = _written_out(case)
    return _written_out_session("ORT unfused", nodes, constants, case, operands, threads)


def _unfused_qdq(case: Case, operands: Operands, threads: int) -> Contestant:
    """Q/DQ as static quantization puts them: scales of whole tensors, from their largest values."""
    nodes, constants = _written_out(case)
    ranges = {"q": operands.query, "kt": operands.key, "v": operands.value}
    renamed = {"q": "q_dq", "kt": "kt_dq", "v": "v_dq", "p": "p_dq"}
    coders = []
    for name, numbers in ranges.items():
        constants[f"{name}_scale"] = np.float32(np.abs(numbers).max() / 127)
        constants[f"{name}_zero"] = np.int8(0)
    constants["p_scale"] = np.float32(largest_weight(case, operands) / 255)
    constants["p_zero"] = np.uint8(0)
    for name in renamed:
        parameters = [f"{name}_scale", f"{name}_zero"]
        coders.append(helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_q"]))
        coders.append(
            helper.make_node("DequantizeLinear", [f"{name}_q", *parameters], [f"{name}_dq"])
        )
    for node in nodes:
        if node.op_type == "MatMul":
            node.input[:] = [renamed.get(name, name) for name in node.input]
    # K is coded behind its transposition, P behind the softmax.
    ordered = [nodes[0], *coders[:6], *nodes[1:-1], *coders[6:], nodes[-1]]
    arrays = {name: np.asarray(value) for name, value in constants.items()}
    return _written_out_session(
        "ORT unfused QDQ", ordered, arrays, case, operands, threads, worst=COARSE_ERROR
    )


def _written_out(case: Case) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    """MatMul, Softmax, MatMul, as an exporter writes them."""
    nodes = [
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "kt"], ["s"]),
        helper.make_node("Mul", ["s", "scale"], ["scaled"]),
    ]
    constants: dict[str, Any] = {"scale": np.array(case.scale, np.float32)}
    if case.causal:
        nodes.append(helper.make_node("Add", ["scaled", "mask"], ["masked"]))
        constants["mask"] = causal_mask(case.queries, case.keys)
    last = "masked" if case.causal else "scaled"
    nodes.append(helper.make_node("Softmax", [last], ["p"], axis=-1))
    nodes.append(helper.make_node("MatMul", ["p", "v"], ["y"]))
    return nodes, constants


def _written_out_session(
    name: str,
    nodes: list[onnx.NodeProto],
    constants: dict[str, Array],
    case: Case,
    operands: Operands,
    threads: int,
    worst: float = FLOAT32_ERROR,
) -> Contestant:
    key, value = operands.expanded(case.group)
    output = aligned_empty(operands.query.shape, np.float32)
    session = BoundSession(
        nodes,
        {"q": operands.query, "k": key, "v": value},
        {"y": output},
        threads,
        constants=constants,
    )
    return Contestant(name, session.run, lambda: output, worst)
