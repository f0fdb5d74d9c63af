"""Sinks in ONNX Runtime against float64 attention and the numpy definition of int8 attention."""

import numpy as np
import pytest

from qfa_passes.quant.attention import attention_float64, attention_int8
from qfa_passes.quant.masking import Masking
from tests.operator.sessions import VALID, Array, one_node, qkv, run
from tests.reference.attention_cases import nmse

CAUSAL = Masking(causal=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("sink", [[0.5], [0.0, 3.0, -2.0, 9.0], [-np.inf, -100.0, 80.0, 1.0]])
def test_sink(sink: list[float], dtype: type[np.generic]) -> None:
    inputs = qkv(2, 70, 70) | {"sink": np.array(sink, dtype)}
    (output,) = run(one_node(inputs, VALID | {"is_causal": 1}), inputs)
    arrays = [inputs[name] for name in ("query", "key", "value")]
    expected = attention_float64(*arrays, scale=0.25, masking=CAUSAL, sink=inputs["sink"])
    definition = attention_int8(*arrays, scale=0.25, masking=CAUSAL, sink=inputs["sink"])
    assert nmse(output, expected) <= 5e-4
    assert nmse(output, definition) <= 1e-6


@pytest.mark.parametrize("sink", [[-np.inf], [-np.inf] * 4])
def test_neutral_sink_changes_no_bit(sink: list[float]) -> None:
    inputs = qkv(2, 9, 70)
    sinks: dict[str, Array] = {"sink": np.array(sink, np.float32)}
    (plain,) = run(one_node(inputs), inputs)
    (output,) = run(one_node(inputs | sinks), inputs | sinks)
    np.testing.assert_array_equal(output, plain)


def test_nan_and_hidden_rows() -> None:
    inputs = qkv(1, 3, 5) | {"sink": np.array([np.nan, 1, 2, 3], np.float32)}
    inputs["attn_mask"] = np.array([True, False, True])[:, None]
    (output,) = run(one_node(inputs), inputs)
    assert np.isnan(output[:, 0, [0, 2]]).all()
    assert (output[:, :, 1] == 0).all()
    assert np.isfinite(output[:, 1:]).all()


def test_shifted_keys_are_refused_beside_a_sink() -> None:
    inputs = qkv() | {"sink": np.array([1], np.float32), "k_mean": np.ones((2, 16), np.float32)}
    with pytest.raises(Exception, match=r"node 'attention_7'.*k_mean.*sink"):
        run(one_node(inputs), inputs)
