"""Blocks that were quantized before, with codes for scores and weights: the operator leaves those roundings out."""

import numpy as np
import onnx

import qfa_passes
from qfa_passes.core.outcome import SiteStatus
from qfa_passes.load import read_model
from qfa_passes.quant.attention import attention_float64
from qfa_passes.runtime.session import create_session

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
graph (float[B,2,S,16] q, float[B,2,T,16] k, float[B,2,T,16] v) => (float[B,2,S,16] o)
<float step = {0.5}, uint8 zero = {128}, float part = {0.004}, uint8 none = {0}>
{
  kt = Transpose<perm=[0,1,3,2]>(k)
  s = MatMul(q, kt)
  sq = QuantizeLinear(s, step, zero)
  sd = DequantizeLinear(sq, step, zero)
  p = Softmax<axis=-1>(sd)
  pq = QuantizeLinear(p, part, none)
  pd = DequantizeLinear(pq, part, none)
  o = MatMul(pd, v)
}
"""


def test_site_is_held_against_the_block_without_its_roundings() -> None:
    """Against the coarse codes of the source int8 looks far off; it is nearer to the truth than they are."""
    proto = onnx.parser.parse_model(MODEL)
    result = qfa_passes.optimize(proto)
    (site,) = result.report.sites
    assert site.status is SiteStatus.FUSED and site.format == "int8"
    assert site.nmse is not None and site.nmse < 5e-4
    generator = np.random.default_rng(1)
    feeds = {name: generator.standard_normal((2, 2, 40, 16)).astype(np.float32) for name in "qkv"}
    truth = attention_float64(*feeds.values(), scale=1.0)
    errors = []
    for model in (proto, result.model):
        (output,) = create_session(read_model(model)).run(None, feeds)
        errors.append(float(np.square(output - truth).sum() / np.square(truth).sum()))
    assert errors[0] > 1e-3 > 5e-4 > errors[1]
