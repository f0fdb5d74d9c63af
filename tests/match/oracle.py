"""What a site claims, computed in float64 from the values it names, against the model that it was found in."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import ModelProto, TensorProto, ValueInfoProto, numpy_helper

from qfa_passes.core.site import AttentionSite, MaskKind, Operand
from qfa_passes.core.view import apply_views
from tests.match.blocks import normalized, site_of

Array = npt.NDArray[Any]

DEFAULT_SIZES = {"B": 2, "S": 5, "T": 7}


def made_up(proto: ModelProto, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Array]:
    """Random inputs of a model; truth values and integers are 0 or 1 with a 1 in front."""
    random = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for value in proto.graph.input:
        tensor = value.type.tensor_type
        shape = [
            sizes[dim.dim_param] if dim.dim_param else dim.dim_value for dim in tensor.shape.dim
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
    """softmax(scale * Q K^T + mask) V of a site in float64; rows that see nothing are NaN."""
    query, key, value = (
        laid_out(operand, values) for operand in (site.query, site.key, site.value)
    )
    assert query.shape[1] == site.num_heads and key.shape[1] == site.kv_num_heads
    assert query.shape[3] == site.qk_channels and value.shape[3] == site.v_channels
    group = site.num_heads // site.kv_num_heads
    key, value = np.repeat(key, group, axis=1), np.repeat(value, group, axis=1)
    scores = site.scale * (query @ key.swapaxes(2, 3))
    for term in site.mask.terms:
        mask = values[term.tensor]
        assert np.broadcast_shapes(mask.shape, scores.shape) == scores.shape
        if term.kind is MaskKind.BIAS:
            scores = scores + mask.astype(np.float64)
        else:
            scores = np.where(mask if term.kind is MaskKind.KEEP else ~mask, scores, term.fill)
    if site.mask.causal:
        scores = np.where(np.tri(*scores.shape[2:], dtype=bool), scores, -np.inf)
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True) @ value


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
    operands = [operand.tensor for operand in (site.query, site.key, site.value)]
    names = operands + [term.tensor for term in site.mask.terms]
    got = attention(site, run(normalized(proto), feeds, names))
    assert got.shape == expected.shape
    finite = np.isfinite(got)
    assert finite.any()
    np.testing.assert_allclose(got[finite], expected[finite], rtol=tolerance, atol=tolerance)
    return site
