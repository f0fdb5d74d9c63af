"""Operands with the heads inside the channels: the same bits as with an axis of their own."""

from itertools import product

import numpy as np
import pytest
from onnx import ModelProto

from qfa_passes.quant.cache import KeyValueCache
from tests.operator.caches import cache_node, codings, constants_of, past_of
from tests.operator.sessions import Array, one_node, open_session, qkv, run


def folded(x: Array) -> Array:
    """(B, heads, rows, channels) to (B, rows, heads * channels)."""
    batch, heads, rows, channels = x.shape
    return np.ascontiguousarray(x.swapaxes(1, 2)).reshape(batch, rows, heads * channels)


@pytest.mark.parametrize("flat", list(product([False, True], repeat=3)))
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_each_operand_has_its_own_layout(
    flat: tuple[bool, bool, bool], dtype: type[np.generic]
) -> None:
    inputs = qkv(2, 40, 70, dtype=dtype)
    inputs["value"] = inputs["value"][..., :9].copy()
    (expected,) = run(one_node(inputs), inputs)
    changed = {
        name: folded(x) if one else x for (name, x), one in zip(inputs.items(), flat, strict=True)
    }
    (output,) = run(one_node(changed), changed)
    np.testing.assert_array_equal(output, folded(expected) if flat[0] else expected)


def shaped(model: ModelProto, *shapes: list[int | str]) -> ModelProto:
    for value, shape in zip(model.graph.input, shapes, strict=True):
        for extent in shape:
            dim = value.type.tensor_type.shape.dim.add()
            if isinstance(extent, str):
                dim.dim_param = extent
            else:
                dim.dim_value = extent
    return model


@pytest.mark.parametrize(
    ("query", "value", "expected"),
    [
        (["B", "S", 64], ["B", "T", 18], ["B", "S", 36]),
        (["B", "S", 64], ["B", 2, "T", 9], ["B", "S", 36]),
        (["B", 4, "S", 16], ["B", "T", 18], ["B", 4, "S", 9]),
        ([2, 5, 64], ["B", "T", "width"], [2, 5, None]),
    ],
)
def test_inferred_shape(
    query: list[int | str], value: list[int | str], expected: list[int | str | None]
) -> None:
    model = shaped(one_node(qkv()), query, ["B", 2, "T", 16], value)
    found = open_session(model).get_outputs()[0].shape
    assert len(found) == len(expected)
    for got, wanted in zip(found, expected, strict=True):
        assert got == wanted or (wanted is None and str(got).startswith("qfa_open_"))


@pytest.mark.parametrize("name", codings(16, 9))
def test_layouts_beside_a_cache(name: str) -> None:
    """Past and present have an axis of heads whatever the new tokens have."""
    coding = codings(16, 9)[name]
    inputs, past = qkv(2, 5, 40), qkv(2, 1, 30)
    for tokens in (inputs, past):
        tokens["value"] = tokens["value"][..., :9].copy()
    cache = KeyValueCache.of(coding, past["key"], past["value"])
    feeds = inputs | past_of(cache) | constants_of(coding)
    output, *present = run(cache_node(cache, feeds), feeds)
    changed = feeds | {key: folded(x) for key, x in inputs.items()}
    model = cache_node(cache, changed, scale=0.25)
    flat, *others = run(model, changed)
    np.testing.assert_array_equal(flat, folded(output))
    for found, wanted in zip(others, present, strict=True):
        np.testing.assert_array_equal(found, wanted)
