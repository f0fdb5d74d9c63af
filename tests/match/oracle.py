"""What a site claims, computed in float64 from the values it names, against the model that it was found in."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import ModelProto, TensorProto, ValueInfoProto, numpy_helper

from qfa_passes.core.site import AttentionSite, Mask, MaskKind, Operand
from qfa_passes.core.view import apply_views
from tests.match.blocks import normalized, site_of

Array = npt.NDArray[Any]

DEFAULT_SIZES = {"B": 2, "S": 5, "T": 7, "W": 3, "N": 8}


def made_up(proto: ModelProto, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Array]:
    """Random inputs of a model; truth values and integers are 0 or 1 with a 1 in front."""
    random = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for value in proto.graph.input:
        tensor = value.type.tensor_type
        shape = [
            sizes[dim.dim_param] if not dim.dim_value else dim.dim_value for dim in tensor.shape.dim
        ]
        if tensor.elem_type in (TensorProto.FLOAT, TensorProto.FLOAT16):
            data: Array = random.standard_normal(shape)
        else:
            data = random.integers(0, 2, shape)
            data[..., 0] = 1
        feeds[value.name] = data.astype(np.dtype(TYPES[tensor.elem_type]))
    return feeds


TYPES = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BOOL: "bool",
    TensorProto.INT64: "int64",
    TensorProto.INT32: "int32",
}


def run(proto: ModelProto, feeds: Mapping[str, Array], names: list[str]) -> dict[str, Array]:
    """Values by name, whether inputs, constants or computed."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    known = {**feeds, **constants}
    wanted = [name for name in dict.fromkeys(names) if name not in known]
    exposed = ModelProto()
    exposed.CopyFrom(proto)
    present = {value.name for value in exposed.graph.output}
    exposed.graph.output.extend(ValueInfoProto(name=name) for name in wanted if name not in present)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = ort.InferenceSession(
        exposed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    computed = dict(zip(wanted, session.run(wanted, dict(feeds)), strict=True)) if wanted else {}
    return {name: known.get(name, computed.get(name)) for name in names}


def attention(site: AttentionSite, values: Mapping[str, Array]) -> Array:
    """What a site says its output is, in float64 and in the layout of the output; rows that see nothing are zero."""
    query, key, value = (
        laid_out(operand, values) for operand in (site.query, site.key, site.value)
    )
    if site.cache is not None:
        key = np.concatenate((values[site.cache.past_key].astype(np.float64), key), axis=2)
        value = np.concatenate((values[site.cache.past_value].astype(np.float64), value), axis=2)
    assert query.shape[1] == site.num_heads and key.shape[1] == site.kv_num_heads
    assert query.shape[3] == site.qk_channels and value.shape[3] == site.v_channels
    group = site.num_heads // site.kv_num_heads
    key, value = np.repeat(key, group, axis=1), np.repeat(value, group, axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        scores = site.scale * (query @ key.swapaxes(2, 3))
        if site.softcap:
            scores = site.softcap * np.tanh(scores / site.softcap)
        scores = _with_terms(site, scores, values)
    length = None if site.mask.kv_length is None else values[site.mask.kv_length]
    seen = _seen(site.mask, scores.shape, length) & ~np.isneginf(scores)
    scores = np.where(seen, scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    sink = np.full((1, 1, 1, 1), -np.inf)
    if site.sink is not None:
        sink = values[site.sink].astype(np.float64).reshape(1, -1, 1, 1)
        top = np.maximum(top, sink)
    top = np.where(np.isneginf(top), 0, top)
    weights = np.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True) + np.exp(sink - top)
    output = weights / np.where(total == 0, 1, total) @ np.where(np.isfinite(value), value, 0)
    return apply_views(output, site.output_views)


def _with_terms(site: AttentionSite, scores: Array, values: Mapping[str, Array]) -> Array:
    for term in site.mask.terms:
        mask = apply_views(values[term.tensor], term.views)
        missing = scores.shape[-1] - mask.shape[-1] if term.fewer_keys else 0
        if missing > 0:
            closed = {MaskKind.BIAS: -np.inf, MaskKind.KEEP: False, MaskKind.DROP: True}[term.kind]
            width = [(0, 0)] * (mask.ndim - 1) + [(0, missing)]
            mask = np.pad(mask, width, constant_values=closed)
        assert np.broadcast_shapes(mask.shape, scores.shape) == scores.shape
        if term.kind is MaskKind.BIAS:
            scores = scores + term.factor * mask.astype(np.float64)
        else:
            scores = np.where(mask if term.kind is MaskKind.KEEP else ~mask, scores, term.fill)
    return scores


def _seen(mask: Mask, shape: tuple[int, ...], lengths: Array | None) -> Array:
    """(B, H, S, T): which keys the attributes of a mask let a query see."""
    batch, heads, queries, keys = np.ogrid[tuple(slice(extent) for extent in shape)]
    total = np.full_like(batch, shape[3]) if lengths is None else lengths.reshape(-1, 1, 1, 1)
    place = queries + (total - shape[2] if mask.queries_at_end else 0)
    seen = keys < total + 0 * (queries + heads)
    if mask.causal:
        seen = seen & (keys <= place)
    if mask.left_window >= 0:
        seen = seen & (keys >= place - mask.left_window)
    if mask.right_window >= 0:
        seen = seen & (keys <= place + mask.right_window)
    return seen


def names_of(site: AttentionSite) -> list[str]:
    """The values that a site reads."""
    names = [operand.tensor for operand in (site.query, site.key, site.value)]
    names += [term.tensor for term in site.mask.terms]
    if site.cache is not None:
        names += [site.cache.past_key, site.cache.past_value]
    return names + [name for name in (site.sink, site.mask.kv_length) if name is not None]


def laid_out(operand: Operand, values: Mapping[str, Array]) -> Array:
    """(B, heads, rows, channels) in float64."""
    tensor = values[operand.tensor].astype(np.float64)
    return apply_views(tensor, operand.views)


def check_site(
    proto: ModelProto, sizes: Mapping[str, int] | None = None, *, tolerance: float = 1e-5
) -> AttentionSite:
    """Finds the one site of a model and proves that it computes what the model computes."""
    site = site_of(proto)
    feeds = made_up(proto, {**DEFAULT_SIZES, **(sizes or {})})
    expected = run(proto, feeds, [site.output])[site.output]
    got = attention(site, run(normalized(proto), feeds, names_of(site)))
    assert got.shape == expected.shape
    finite = np.isfinite(expected)
    assert finite.any()
    np.testing.assert_allclose(got[finite], expected[finite], rtol=tolerance, atol=tolerance)
    assert not got[~finite].any()  # a row that sees nothing is NaN in a model without a guard
    return site
