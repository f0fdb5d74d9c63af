"""Made-up inputs have sizes that the model takes."""

import onnx
import pytest

from qfa_passes.verify.open_axes import open_sizes


def sizes(inputs: str, body: str) -> dict[str, int]:
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => (float y) {{ {body} }}'
    )
    return open_sizes(proto, 1, 80)


@pytest.mark.parametrize(
    "inputs,body,expected",
    (
        ("float[B,S] x", "y = Relu(x)", {"B": 1, "S": 80}),
        ("float[B,P,D] p, float[B,S,16] k", "y = Concat <axis = 1> (p, k)", {"D": 16, "P": 80}),
        ("float[A,S,8] x, float[B,C,N] w", "y = MatMul(x, w)", {"C": 8, "N": 80, "A": 1, "B": 1}),
        ("float[B,S] x, float[1,T] m", "y = Add(x, m)", {"S": 80, "T": 80}),
        ("float[S,S] x, float[A,24] m", "y = Add(x, m)", {"S": 24, "A": 24}),
    ),
)
def test_sizes(inputs: str, body: str, expected: dict[str, int]) -> None:
    found = sizes(inputs, body)
    assert {name: found[name] for name in expected} == expected


def test_sums_are_those_of_their_parts() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[B,P,8] p, float[B,S,8] k, float[B,M] m) => (float y)
        { c = Concat <axis = 1> (p, k) y = Relu(c) }"""
    )
    proto.graph.input[2].type.tensor_type.shape.dim[1].dim_param = "P + S"
    assert open_sizes(proto, 2, 40) == {"B": 2, "P": 40, "S": 40, "P + S": 80}
