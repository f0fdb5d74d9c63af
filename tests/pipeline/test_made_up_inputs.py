"""Models for which inputs are made up: optimize comes through whatever they do with them."""

import onnx
import pytest
from onnx import ModelProto

import qfa_passes
from qfa_passes.core.outcome import SiteStatus

BLOCK = """<ir_version: 8, opset_import: ["" : 17]>
graph (float[B,2,S,16] q, float[B,2,T,16] k, float[B,2,T,16] v, {inputs}) => (float[B,2,S,16] o)
{{
  {before}
  kt = Transpose<perm=[0,1,3,2]>(k)
  s = MatMul(qq, kt)
  p = Softmax<axis=-1>(s)
  o = MatMul(p, v)
}}
"""


def model(inputs: str, before: str) -> ModelProto:
    """One block whose queries come from ``before``."""
    return onnx.parser.parse_model(BLOCK.format(inputs=inputs, before=before))


def outcome(proto: ModelProto) -> qfa_passes.Optimized:
    """The block fused on inputs that are made up."""
    result = qfa_passes.optimize(proto)
    assert [site.status for site in result.report.sites] == [SiteStatus.FUSED]
    return result


def test_sample_that_gives_no_numbers_is_left_out() -> None:
    """A mask that hides keys makes this model divide by zero; the sample without hidden keys remains."""
    proto = model(
        "int64[B,S] mask",
        """f = Cast<to=1>(mask) low = ReduceMin<axes=[0,1], keepdims=0>(f) qq = Div(q, low)""",
    )
    report = outcome(proto).report
    assert report.sites[0].nmse is not None
    assert "o" in report.model_nmse


def test_model_that_gives_no_numbers_at_all_is_judged_by_its_blocks() -> None:
    """Nothing of a run can be used then, and the report says so."""
    proto = model("float[1] x", "zero = Sub(x, x) qq = Div(q, zero)")
    report = outcome(proto).report
    assert not report.model_nmse
    assert any("not finite" in warning for warning in report.warnings)


SELF = """<ir_version: 8, opset_import: ["" : 17]>
graph (float[B,2,S,16] x) => (float[B,2,S,16] o)
{
  kt = Transpose<perm=[0,1,3,2]>(x)
  s = MatMul(x, kt)
  p = Softmax<axis=-1>(s)
  o = MatMul(p, x)
}
"""


@pytest.mark.parametrize("size", [-1, -7])
def test_negative_size_is_an_open_one(size: int) -> None:
    """As some exporters write it."""
    proto = onnx.parser.parse_model(SELF)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    assert "o" in outcome(proto).report.model_nmse
