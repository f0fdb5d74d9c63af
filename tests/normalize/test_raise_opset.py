"""Models of older operator sets are converted, or refused with the converter's reason."""

import numpy as np
import onnx
import pytest

from qfa_passes.errors import UnsupportedModelError
from qfa_passes.normalize import raise_opset
from tests.match.blocks import Block
from tests.match.oracle import check_site
from tests.normalize.test_passes import outputs

OLD = Block(
    inputs="float[2,4,3,8] q, float[2,4,5,8] k, float[2,4,5,6] v, float[2,1,1,5] bias",
    constants="float c = {0.125}",
    scores="s = MatMul(q, kt) x = Mul(s, c)",
    mask="y = Add(x, bias)",
    outputs="float[2,4,3,6] o",
    opset=13,
)


def test_old_model_is_converted_and_matched() -> None:
    model = OLD.model()
    raised = raise_opset(model)
    assert {entry.domain: entry.version for entry in raised.opset_import} == {"": 17}
    onnx.checker.check_model(raised, full_check=True)
    for left, right in zip(outputs(model), outputs(raised), strict=True):
        np.testing.assert_array_equal(left, right)
    assert check_site(model, {}).scale == 0.125


@pytest.mark.parametrize("opset", [17, 18, 21, 23])
def test_newer_model_is_left_alone(opset: int) -> None:
    model = Block(opset=opset).model()
    assert raise_opset(model) is model


def test_operators_that_only_the_runtime_knows_stay() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 7, opset_import: ["": 12, "com.microsoft": 1]> g (float[2,4] x, float[4] w) => (float[2,4] z)
        <int64[1] axes = {1}> {
            n = SimplifiedLayerNormalization <axis = -1> (x, w) r = ReduceSum <axes = [1], keepdims = 1> (n)
            g = com.microsoft.FastGelu(n) z = Mul(g, r)
        }"""
    )
    raised = raise_opset(model)
    assert {entry.domain: entry.version for entry in raised.opset_import} == {
        "": 17,
        "com.microsoft": 1,
    }
    assert [node.domain for node in raised.graph.node if "Simplified" in node.op_type] == [""]
    for left, right in zip(outputs(model), outputs(raised), strict=True):
        np.testing.assert_array_equal(left, right)


def test_what_cannot_be_converted_is_refused() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 7, opset_import: ["": 13]> g (float[N] x) => (float[N] y) { y = Nonsense(x) }'
    )
    with pytest.raises(UnsupportedModelError) as caught:
        raise_opset(model)
    assert caught.value.exit_code == 6
    assert "opset 13 and could not be converted to 17" in caught.value.what
    assert caught.value.why and "export it again with opset 17" in caught.value.hint
