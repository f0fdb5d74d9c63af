"""Random sizes, masks, types and modes through ONNX Runtime against the numpy definition of int8 attention."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qfa_passes.quant.attention import Masking, Quantization, attention_int8
from tests.operator.sessions import VALID, one_node, qkv, run
from tests.reference.attention_cases import nmse

BOUND = 1e-6
# float16 in and out: results are rounded, and codes often lie in the middle of two.
HALF_BOUND = 4e-6


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    queries=st.integers(1, 40),
    keys=st.integers(1, 150),
    channels=st.integers(1, 12).map(lambda n: 8 * n),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 4),
    causal=st.booleans(),
    rotate=st.booleans(),
    shift=st.booleans(),
    half=st.booleans(),
    masked=st.sampled_from(["none", "mask", "bias", "both"]),
    broadcast=st.lists(st.booleans(), min_size=4, max_size=4),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_random_request(
    batch: int,
    queries: int,
    keys: int,
    channels: int,
    kv_heads: int,
    group: int,
    causal: bool,
    rotate: bool,
    shift: bool,
    half: bool,
    masked: str,
    broadcast: list[bool],
    threads: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    heads = group * kv_heads
    dtype = np.float16 if half else np.float32
    inputs: dict[str, Any] = qkv(
        batch, queries, keys, channels, heads=heads, kv_heads=kv_heads, dtype=dtype
    )
    full = (batch, heads, queries, keys)
    shape = [1 if one else extent for one, extent in zip(broadcast, full, strict=True)]
    if masked in ("mask", "both"):
        inputs["attn_mask"] = rng.random(shape) > 0.3
    if masked in ("bias", "both"):
        bias = rng.standard_normal(shape).astype(np.float32)
        inputs["attn_bias"] = np.where(rng.random(shape) > 0.9, -np.inf, bias).astype(np.float32)
    if shift:
        inputs["k_mean"] = rng.standard_normal((kv_heads, channels)).astype(np.float32)
    scale = channels**-0.5
    attributes = VALID | {
        "num_heads": heads,
        "kv_num_heads": kv_heads,
        "scale": scale,
        "is_causal": int(causal),
        "rotate": "hadamard" if rotate else "none",
    }
    (output,) = run(one_node(inputs, attributes), inputs, threads=threads)
    expected = attention_int8(
        *(inputs[name] for name in ("query", "key", "value")),
        scale=scale,
        masking=Masking(causal=causal, mask=inputs.get("attn_mask"), bias=inputs.get("attn_bias")),
        quantization=Quantization(k_mean=inputs.get("k_mean"), rotate=rotate),
    )
    assert output.dtype == dtype
    assert nmse(output, expected) <= (HALF_BOUND if half else BOUND)
