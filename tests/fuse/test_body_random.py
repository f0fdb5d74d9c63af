"""Random models of several nodes with random features: one body, one kernel, one definition."""

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.operator.sessions import run
from tests.reference.attention_cases import nmse
from tests.reference.attention_models import Site, build_model, merged
from tests.reference.body_cases import defined, joined, qkv

Array = npt.NDArray[Any]
BOUNDS = {"int8": 2e-4, "float": 1e-10}
"""Against the definition; the body does not simulate the rounding of softmax weights."""


@st.composite
def sites(draw: st.DrawFn, format: str) -> Site:
    """Draws a node with any mixture of inputs and attributes."""
    batch, kv_heads, group = (draw(st.integers(1, 3)) for _ in range(3))
    rows, keys = draw(st.integers(0, 9)), draw(st.sampled_from([0, 1, 7, 64, 70, 140]))
    channels, v_channels = draw(st.sampled_from([8, 16, 24])), draw(st.sampled_from([8, 40]))
    heads, rng = kv_heads * group, np.random.default_rng(draw(st.integers(0, 99)))

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    inputs = qkv(batch, heads, kv_heads, rows, keys, channels, v_channels)
    length = keys
    if draw(st.booleans()):
        past = draw(st.sampled_from([0, 1, 65]))
        inputs["past_key"] = normal(batch, kv_heads, past, channels)
        inputs["past_value"] = normal(batch, kv_heads, past, v_channels)
        length += past
    shape = draw(st.sampled_from([(length,), (rows, length), (batch, 1, 1, length)]))
    if draw(st.booleans()):
        inputs["attn_mask"] = rng.random(shape) < 0.8
    if draw(st.booleans()):
        hidden = rng.random(shape) < 0.2
        inputs["attn_bias"] = np.where(hidden, -np.inf, normal(*shape)).astype(np.float32)
    if draw(st.booleans()):
        inputs["sink"] = normal(draw(st.sampled_from([1, heads]))) * 3
    if draw(st.booleans()):
        inputs["kv_length"] = rng.integers(-1, length + 3, draw(st.sampled_from([1, batch])))
    attributes: dict[str, Any] = {
        "compute_format": format,
        "queries_at_end": draw(st.integers(0, 1)),
        "left_window": draw(st.sampled_from([-1, 0, 5, 200])),
        "right_window": draw(st.sampled_from([-1, 0, 5, 200])),
        "softcap": draw(st.sampled_from([0.0, 2.0, 30.0])),
    }
    presents, flat, causal = (draw(st.booleans()) for _ in range(3))
    return Site(inputs, 0.3, causal, attributes, presents, flat)


@given(st.data(), st.sampled_from(["int8", "float"]), st.sampled_from([15, 18, 23]))
@settings(max_examples=25, deadline=None)
def test_kernel_and_body_compute_the_definition(
    data: st.DataObject, format: str, opset: int
) -> None:
    drawn = data.draw(st.lists(sites(format), min_size=1, max_size=3))
    model, feeds = build_model(drawn, opset)
    for library in (True, False):
        results = iter(run(model, feeds, library=library))
        for site in drawn:
            output, wanted = next(results), defined(site)
            assert np.isfinite(output).all()
            assert nmse(output, merged(wanted) if site.flat else wanted) <= BOUNDS[format], library
            if site.presents:
                for whole in joined(site):
                    np.testing.assert_array_equal(next(results), whole)
