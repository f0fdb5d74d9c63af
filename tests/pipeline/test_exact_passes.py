"""Passes that promise the same numbers are held to it in every run that verifies."""

from typing import ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

import qfa_passes
from qfa_passes import opened
from qfa_passes.core.passes import Contract
from qfa_passes.errors import VerificationError
from qfa_passes.graph.graph_pass import GraphPass
from qfa_passes.graph.ir import Graph, is_op
from qfa_passes.normalize import normalize_passes
from tests.reference.decoders import Decoder


class DoubleScale(GraphPass):
    """A faulty pass: it scales the first layer's scores once more, so that the block is proven as it then stands."""

    name: ClassVar[str] = "double-scale"
    contract: ClassVar[Contract] = Contract.EXACT

    def run(self, graph: Graph) -> int:
        """Doubles a constant that a Mul or Div reads."""
        for node in graph.nodes:
            if is_op(node, "Softmax"):
                twice = gs.Variable(graph.new_name("twice"), dtype=np.float32)
                two = gs.Constant(graph.new_name("two"), np.array(2, np.float32))
                source = node.inputs[0]
                graph.add(gs.Node("Mul", graph.new_name("double"), {}, [source, two], [twice]))
                node.inputs[0] = twice
                return 1
        return 0


@pytest.mark.parametrize("level", ["fast", "full"])
def test_a_pass_that_changes_numbers_is_named(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    """The proof of a block starts from the normalized model and cannot see this."""

    def faulty(*given: object, **named: object) -> tuple[GraphPass, ...]:
        return (*normalize_passes(*given, **named), DoubleScale())  # type: ignore[arg-type]

    monkeypatch.setattr(opened, "normalize_passes", faulty)
    monkeypatch.setattr("qfa_passes.pipeline.normalize_passes", faulty)
    with pytest.raises(VerificationError, match="pass 'double-scale' changed output"):
        qfa_passes.optimize(Decoder(layers=2).model(), verify=level)


CHAOTIC = """<ir_version: 8, opset_import: ["" : 17]>
graph (float[B,2,S,16] x) => (float[B,2,S,16] o)
<float big = {1e6}>
{
  kt = Transpose<perm=[0,1,3,2]>(x)
  s = MatMul(x, kt)
  p = Softmax<axis=-1>(s)
  a = MatMul(p, x)
  b = Mul(a, big)
  o = Sin(b)
}
"""


def test_outputs_that_mean_little_are_told() -> None:
    """A model whose outputs magnify rounding is optimized all the same, and the user hears of it."""
    report = qfa_passes.optimize(onnx.parser.parse_model(CHAOTIC)).report
    assert report.sites[0].status == "fused"
    assert report.model_nmse["o"] > 0.01
    assert any("outputs moved a lot (o)" in warning for warning in report.warnings)
