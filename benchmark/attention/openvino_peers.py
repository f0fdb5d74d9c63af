"""OpenVINO: its attention operator, attention with FakeQuantize around the products, and stateful decoding."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmark.attention.case import Case, Operands, causal_mask, largest_weight
from benchmark.attention.contestant import (
    BFLOAT16_ERROR,
    COARSE_ERROR,
    FLOAT32_ERROR,
    INT8_ERROR,
    Absent,
    Contestant,
    Entry,
    Offer,
)

Array = npt.NDArray[Any]

_ERRORS: Final = {"f32": FLOAT32_ERROR, "bf16": BFLOAT16_ERROR, "u8": INT8_ERROR}


def prefill(case: Case, operands: Operands, threads: int) -> Iterator[Entry]:
    """The operator in float32 and bfloat16, and int8 by FakeQuantize; repeated heads are not timed."""
    if importlib.util.find_spec("openvino") is None:
        yield Absent("OpenVINO", "not installed")
        return
    key, value = operands.expanded(case.group)
    feeds = {"q": operands.query, "k": key, "v": value}
    for precision in ("f32", "bf16"):
        name = f"OpenVINO {precision}"
        yield Offer(name, partial(_attention, name, case, feeds, threads, precision))
    name = "OpenVINO int8 (FakeQuantize)"
    yield Offer(name, partial(_quantized, name, case, operands, feeds, threads))


def decode(case: Case, operands: Operands, threads: int) -> Iterator[Entry]:
    """A model with state whose cache is float32, bfloat16 or uint8; it grows by a token with every call."""
    if importlib.util.find_spec("openvino") is None:
        yield Absent("OpenVINO", "not installed")
        return
    if case.queries > 1:
        yield Absent("OpenVINO", "is measured with one new token only")
        return
    for precision in ("f32", "bf16", "u8"):
        name = f"OpenVINO {precision} cache"
        yield Offer(name, partial(_stateful, name, case, operands, threads, precision))


def _compiled(model: Any, threads: int, precision: str, **more: str) -> Any:
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": str(threads),
        "NUM_STREAMS": "1",
        "ENABLE_CPU_PINNING": "NO",
        **more,
    }
    return openvino.Core().compile_model(model, "CPU", settings).create_infer_request()


def _bind(request: Any, feeds: dict[str, Array]) -> None:
    import openvino

    for name, array in feeds.items():
        request.set_tensor(name, openvino.Tensor(array, shared_memory=True))


def _output(request: Any, feeds: dict[str, Array]) -> Callable[[], Array]:
    """Reads the result; and keeps the inputs, which the request does not, as long as it is kept itself."""

    def read() -> Array:
        assert feeds
        result: Array = request.get_output_tensor(0).data
        return result

    return read


def _bound(
    name: str, model: Any, feeds: dict[str, Array], threads: int, precision: str, *, worst: float
) -> Contestant:
    request = _compiled(model, threads, precision)
    _bind(request, feeds)
    return Contestant(name, request.infer, _output(request, feeds), worst)


def _parameters(feeds: dict[str, Array]) -> list[Any]:
    from openvino import opset13

    return [
        opset13.parameter(list(array.shape), np.float32, name=name) for name, array in feeds.items()
    ]


def _attention(
    name: str, case: Case, feeds: dict[str, Array], threads: int, precision: str
) -> Contestant:
    import openvino
    from openvino import opset13

    parameters = _parameters(feeds)
    result = opset13.scaled_dot_product_attention(*parameters, causal=case.causal)
    model = openvino.Model([opset13.result(result)], parameters, "attention")
    return _bound(name, model, feeds, threads, precision, worst=_ERRORS[precision])


def _quantized(
    name: str, case: Case, operands: Operands, feeds: dict[str, Array], threads: int
) -> Contestant:
    """Scales of whole tensors; what is not int8 runs in bfloat16."""
    import openvino
    from openvino import opset13

    def rounded(node: Any, low: float, high: float, levels: int) -> Any:
        bounds = [opset13.constant(np.array(bound, np.float32)) for bound in (low, high)]
        return opset13.fake_quantize(node, *bounds, *bounds, levels)

    parameters = _parameters(feeds)
    most = [float(np.abs(array).max()) for array in feeds.values()]
    q, k, v = (
        rounded(node, -bound * 128 / 127, bound, 256)
        for node, bound in zip(parameters, most, strict=True)
    )
    scores = opset13.matmul(q, k, False, True)
    scores = opset13.multiply(scores, opset13.constant(np.float32(case.scale)))
    if case.causal:
        mask = np.maximum(causal_mask(case.queries, case.keys), np.float32(-1e9))
        scores = opset13.add(scores, opset13.constant(mask[None, None]))
    weights = rounded(opset13.softmax(scores, -1), 0.0, largest_weight(case, operands), 256)
    result = opset13.matmul(weights, v, False, False)
    model = openvino.Model([opset13.result(result)], parameters, "quantized")
    return _bound(name, model, feeds, threads, "bf16", worst=COARSE_ERROR)


def _stateful(
    name: str, case: Case, operands: Operands, threads: int, precision: str
) -> Contestant:
    import openvino

    request = _compiled(
        _stateful_model(case),
        threads,
        "bf16" if precision == "bf16" else "f32",
        KV_CACHE_PRECISION=precision,
    )
    newest = {
        name: np.ascontiguousarray(array[:, :, -1:])
        for name, array in (("k", operands.key), ("v", operands.value))
    }
    feeds = {"q": operands.query, **newest, "beam": np.arange(case.batch, dtype=np.int32)}
    _bind(request, feeds)
    request.infer()
    for state in request.query_state():
        past = operands.key if state.name == "past_k" else operands.value
        state.state = openvino.Tensor(np.ascontiguousarray(past[:, :, :-1]))
    width = {"f32": 4, "bf16": 2, "u8": 1}[precision]
    return Contestant(
        name,
        request.infer,
        _output(request, feeds),
        _ERRORS[precision],
        float(width * case.cache_numbers),
    )


def _stateful_model(case: Case) -> Any:
    """Read the past, put the new token behind it, attend, keep it: the way that the plug-in knows."""
    import openvino
    from openvino import opset6, opset13

    shape = openvino.PartialShape([case.batch, case.kv_heads, -1, case.channels])
    q = opset13.parameter([case.batch, case.heads, -1, case.channels], np.float32, name="q")
    new = [opset13.parameter(shape, np.float32, name=name) for name in ("k", "v")]
    beam = opset13.parameter([case.batch], np.int32, name="beam")
    empty = opset13.constant(np.zeros((case.batch, case.kv_heads, 0, case.channels), np.float32))
    sinks, joined = [], []
    for name, node in zip(("past_k", "past_v"), new, strict=True):
        past = opset6.read_value(empty, name, np.float32, shape)
        past = opset13.gather(past, beam, opset13.constant(0))
        whole = opset13.concat([past, node], 2)
        sinks.append(opset6.assign(whole, name))
        if case.group > 1:
            extents = np.array([case.batch, case.kv_heads, case.group, 1, case.channels])
            whole = opset13.unsqueeze(whole, opset13.constant(2))
            whole = opset13.broadcast(
                whole, opset13.constant(extents), broadcast_spec="BIDIRECTIONAL"
            )
            merged = np.array([0, case.heads, -1, case.channels])
            whole = opset13.reshape(whole, opset13.constant(merged), True)
        joined.append(whole)
    result = opset13.scaled_dot_product_attention(q, *joined, causal=False)
    return openvino.Model([opset13.result(result)], sinks, [q, *new, beam], "decode")
