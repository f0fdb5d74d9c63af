"""Softcaps in ONNX Runtime against float64 attention and the numpy definition of int8 attention."""

import numpy as np
import pytest

from qfa_passes.quant.attention import attention_float64, attention_int8
from qfa_passes.quant.masking import Masking
from tests.operator.sessions import VALID, one_node, qkv, run
from tests.reference.attention_cases import nmse


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("softcap", [0.5, 4.0, 50.0])
def test_softcap(softcap: float, masked: bool) -> None:
    inputs = qkv(2, 40, 150)
    bias = np.random.default_rng(1).standard_normal((4, 40, 150)).astype(np.float32)
    bias[:, :, 30:100] = np.where(bias[:, :, 30:100] > 0, -np.inf, bias[:, :, 30:100])
    masking = Masking(causal=True, bias=bias, left_window=90) if masked else Masking()
    arrays = (inputs["query"], inputs["key"], inputs["value"])
    expected = attention_float64(*arrays, scale=1.0, masking=masking, softcap=softcap)
    definition = attention_int8(*arrays, scale=1.0, masking=masking, softcap=softcap)
    attributes = VALID | {"scale": 1.0, "softcap": softcap}
    if masked:
        inputs["attn_bias"] = bias
        attributes |= {"is_causal": 1, "left_window": 90}
    (output,) = run(one_node(inputs, attributes), inputs)
    assert nmse(output, expected) <= 5e-4
    assert nmse(output, definition) <= 1e-6


def test_a_query_that_is_not_a_number_stays_alone() -> None:
    inputs = qkv(1, 5, 70)
    model = one_node(inputs, VALID | {"softcap": 2.0})
    (clean,) = run(model, inputs)
    inputs["query"][0, 1, 2, 3] = np.nan
    (output,) = run(model, inputs)
    assert np.isnan(output[0, 1, 2]).all()
    output[0, 1, 2] = clean[0, 1, 2]
    np.testing.assert_array_equal(output, clean)
