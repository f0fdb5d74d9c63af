"""Random sizes, masks, types and modes through ONNX Runtime against the numpy definition of attention."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qfa_passes.quant.attention import Quantization, attention_float64, attention_int8
from qfa_passes.quant.masking import Masking
from tests.operator.sessions import VALID, Array, one_node, qkv, run
from tests.operator.test_layouts import folded
from tests.reference.attention_cases import nmse

# A weight that lies in the middle of two codes gets either, and among few keys one code of 255 shows.
BOUND = 1e-4
FLOAT_BOUND = 1e-11
FLOAT_HALF_BOUND = 1e-6


@dataclass(frozen=True)
class Request:
    """What is drawn; see `draw` for the ranges."""

    batch: int
    queries: int
    keys: int
    past: int
    channels: int
    kv_heads: int
    group: int
    causal: bool
    at_end: bool
    left: int
    right: int
    lengths: int
    sink: str
    softcap: float
    fmt: str
    rotate: bool
    shift: bool
    half: bool
    masked: str
    broadcast: tuple[bool, ...]
    flat: tuple[bool, ...]
    threads: int
    seed: int

    @property
    def heads(self) -> int:
        return self.group * self.kv_heads


WINDOW = st.one_of(st.just(-1), st.integers(0, 150))
requests = st.builds(
    Request,
    batch=st.integers(1, 3),
    queries=st.integers(1, 40),
    keys=st.integers(0, 150),
    past=st.one_of(st.just(0), st.integers(1, 100)),
    channels=st.integers(1, 12).map(lambda n: 8 * n),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 4),
    causal=st.booleans(),
    at_end=st.booleans(),
    left=WINDOW,
    right=WINDOW,
    lengths=st.integers(0, 2),
    sink=st.sampled_from(["none", "none", "one", "each"]),
    softcap=st.sampled_from([0.0, 0.0, 0.7, 20.0]),
    fmt=st.sampled_from(["int8", "int8", "float"]),
    rotate=st.booleans(),
    shift=st.booleans(),
    half=st.booleans(),
    masked=st.sampled_from(["none", "mask", "bias", "both"]),
    broadcast=st.tuples(*[st.booleans()] * 4),
    flat=st.tuples(*[st.booleans()] * 3),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)


@settings(max_examples=100, deadline=None)
@given(requests)
def test_random_request(r: Request) -> None:
    rng = np.random.default_rng(r.seed)
    dtype = np.float16 if r.half else np.float32
    inputs: dict[str, Any] = qkv(
        r.batch,
        r.queries,
        r.keys,
        r.channels,
        heads=r.heads,
        kv_heads=r.kv_heads,
        dtype=dtype,
    )
    if r.past:
        shape = (r.batch, r.kv_heads, r.past, r.channels)
        inputs["past_key"], inputs["past_value"] = rng.standard_normal((2, *shape)).astype(dtype)
    query, key, value = _whole(inputs)
    _add_optional(inputs, r, rng)

    masking = Masking(
        causal=r.causal,
        mask=inputs.get("attn_mask"),
        bias=inputs.get("attn_bias"),
        queries_at_end=r.at_end,
        left_window=r.left,
        right_window=r.right,
        kv_length=inputs.get("kv_length"),
    )
    terms: dict[str, Any] = {
        "scale": r.channels**-0.5,
        "masking": masking,
        "softcap": r.softcap,
        "sink": inputs.get("sink"),
    }
    if r.fmt == "int8":
        quantization = Quantization(k_mean=inputs.get("k_mean"), rotate=r.rotate)
        expected = attention_int8(query, key, value, quantization=quantization, **terms)
        bound = BOUND
    else:
        expected = attention_float64(query, key, value, **terms)
        bound = FLOAT_HALF_BOUND if r.half else FLOAT_BOUND

    for name, one in zip(("query", "key", "value"), r.flat, strict=True):
        inputs[name] = folded(inputs[name]) if one else inputs[name]
    outputs = ("output", "present_key", "present_value") if r.past else ("output",)
    found = run(one_node(inputs, _attributes(r), outputs=outputs), inputs, threads=r.threads)
    assert found[0].dtype == dtype
    assert nmse(found[0], folded(expected) if r.flat[0] else expected) <= bound
    for present, whole in zip(found[1:], (key, value), strict=bool(r.past)):
        np.testing.assert_array_equal(present, whole)


def _whole(inputs: dict[str, Array]) -> tuple[Array, Array, Array]:
    """Returns the query, and keys and values with the past in front."""
    key, value = (
        np.concatenate([inputs[f"past_{name}"], inputs[name]], axis=2)
        if f"past_{name}" in inputs
        else inputs[name]
        for name in ("key", "value")
    )
    return inputs["query"], key, value


def _add_optional(inputs: dict[str, Any], r: Request, rng: np.random.Generator) -> None:
    full = (r.batch, r.heads, r.queries, r.past + r.keys)
    shape = [1 if one else extent for one, extent in zip(r.broadcast, full, strict=True)]
    if r.masked in ("mask", "both"):
        inputs["attn_mask"] = rng.random(shape) > 0.3
    if r.masked in ("bias", "both"):
        bias = rng.standard_normal(shape)
        inputs["attn_bias"] = np.where(rng.random(shape) > 0.9, -np.inf, bias).astype(np.float32)
    if r.shift and r.softcap == 0 and r.sink == "none":
        inputs["k_mean"] = rng.standard_normal((r.kv_heads, r.channels)).astype(np.float32)
    if r.lengths:
        count = 1 if r.lengths == 1 else r.batch
        inputs["kv_length"] = rng.integers(-5, full[3] + 10, count)
    if r.sink != "none":
        count = 1 if r.sink == "one" else r.heads
        logits = np.where(rng.random(count) > 0.8, -np.inf, 3 * rng.standard_normal(count))
        inputs["sink"] = logits.astype(np.float32)


def _attributes(r: Request) -> dict[str, Any]:
    return VALID | {
        "num_heads": r.heads,
        "kv_num_heads": r.kv_heads,
        "scale": r.channels**-0.5,
        "is_causal": int(r.causal),
        "compute_format": r.fmt,
        "rotate": "hadamard" if r.rotate else "none",
        "softcap": r.softcap,
        "queries_at_end": int(r.at_end),
        "left_window": r.left,
        "right_window": r.right,
    }
