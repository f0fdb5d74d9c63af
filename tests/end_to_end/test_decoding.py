"""Generation step by step: past keys grow by those of every step, all extents are symbols."""

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import ModelProto

from qfa_passes import api
from tests.end_to_end.outcomes import fused_count, outputs, statuses

WRITTEN_OUT = """
    kk = Concat<axis = 2>(pk, k) vv = Concat<axis = 2>(pv, v)
    ku = Unsqueeze(kk, two) ke = Expand(ku, repeats) kr = Reshape(ke, heads)
    vu = Unsqueeze(vv, two) ve = Expand(vu, repeats) vr = Reshape(ve, heads)
    kt = Transpose<perm = [0, 1, 3, 2]>(kr) x = MatMul(q, kt) s = Mul(x, scale)
    shq = Shape<start = 2, end = 3>(q) S = Squeeze(shq, first)
    shk = Shape<start = 2, end = 3>(kk) T = Squeeze(shk, first)
    r = Range(zero, S, one) past = Sub(T, S) p0 = Add(r, past) p = Unsqueeze(p0, row) j = Range(zero, T, one)
    m = LessOrEqual(j, p) y = Where(m, s, ninf) w = Softmax<axis = -1>(y) o = MatMul(w, vr)
"""
STANDARD = "o, kk, vv = Attention<is_causal = 1, scale = 0.35>(q, k, v, , pk, pv)"


def decoder(body: str) -> ModelProto:
    """Attention with 4 query heads over 2 key/value heads and its cache."""
    return onnx.parser.parse_model(
        f"""
        <ir_version: 11, opset_import: ["": 23]>
        decoder (float[B,4,S,16] q, float[B,2,S,16] k, float[B,2,S,16] v, float[B,2,P,16] pk, float[B,2,P,16] pv)
            => (float[B,4,S,16] o, float[B,2,T,16] kk, float[B,2,T,16] vv)
        <int64[1] two = {{2}}, int64[5] repeats = {{1, 1, 2, 1, 1}}, int64[4] heads = {{0, 4, -1, 16}},
         float scale = {{0.35}}, float ninf = {{-inf}}, int64 zero = {{0}}, int64 one = {{1}}, int64[1] first = {{0}},
         int64[1] row = {{1}}>
        {{ {body} }}
        """
    )


def attend(
    query: npt.NDArray[np.float64], key: npt.NDArray[np.float64], value: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Causal attention of the last rows over all keys."""
    scores = 0.35 * query @ np.repeat(key, 2, axis=1).swapaxes(2, 3)
    queries, keys = scores.shape[2:]
    seen = np.tri(queries, keys, keys - queries, dtype=bool)
    weights = np.exp(np.where(seen, scores, -np.inf))
    return weights / weights.sum(axis=-1, keepdims=True) @ np.repeat(value, 2, axis=1)


@pytest.mark.parametrize("format", ["int8", "float"])
@pytest.mark.parametrize("library", [True, False], ids=["library", "body"])
@pytest.mark.parametrize("body", [WRITTEN_OUT, STANDARD], ids=["written out", "standard"])
def test_prompt_and_steps(body: str, library: bool, format: str) -> None:
    result = api.optimize(decoder(body), format=format)
    assert statuses(result) == ["fused"] and fused_count(result.model) == 1
    random = np.random.default_rng(0)
    batch = 2
    past = [np.zeros((batch, 2, 0, 16), np.float32) for _ in range(2)]
    for rows in (5, 1, 1, 70, 1, 1):
        q, k, v = (
            random.standard_normal((batch, heads, rows, 16)).astype(np.float32)
            for heads in (4, 2, 2)
        )
        feeds = {"q": q, "k": k, "v": v, "pk": past[0], "pv": past[1]}
        output, keys, values = outputs(result.model, feeds, library=library)
        np.testing.assert_array_equal(keys, np.concatenate((past[0], k), axis=2))
        np.testing.assert_array_equal(values, np.concatenate((past[1], v), axis=2))
        wanted = attend(*(array.astype(np.float64) for array in (q, keys, values)))
        error = float(np.sum((output - wanted) ** 2) / np.sum(wanted**2))
        assert error < (1e-9 if format == "float" else 5e-4)
        past = [keys, values]
