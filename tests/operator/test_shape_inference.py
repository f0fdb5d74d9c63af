"""What ONNX Runtime learns about the output's shape before it runs."""

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from qfa_passes.core import opspec
from qfa_passes.runtime.library import get_library_path
from tests.operator.sessions import LEVELS, VALID, qkv


def merging_heads(batch: str | None, queries: str | None, keys: str | None) -> ModelProto:
    """Returns attention whose heads are merged into a shape that is taken from the output's.

    Args:
        batch: Name of B; None leaves the extent open without a name, as all others.
        queries: Name of S.
        keys: Name of T.
    """

    def value(name: str, *shape: int | str | None) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes = [
        helper.make_node(
            opspec.OP_TYPE, ["query", "key", "value"], ["attended"], domain=opspec.DOMAIN, **VALID
        ),
        helper.make_node("Shape", ["attended"], ["extents"]),
        helper.make_node("Gather", ["extents", "first"], ["b"]),
        helper.make_node("Gather", ["extents", "third"], ["s"]),
        helper.make_node("Concat", ["b", "s", "merged"], ["target"], axis=0),
        helper.make_node("Transpose", ["attended"], ["tokens"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["tokens", "target"], ["output"]),
    ]
    constants = {"first": 0, "third": 2, "merged": 64}
    graph = helper.make_graph(
        nodes,
        "merging_heads",
        [
            value("query", batch, 4, queries, 16),
            value("key", batch, 2, keys, 16),
            value("value", batch, 2, keys, 16),
        ],
        [value("output", batch, queries, 64)],
        [numpy_helper.from_array(np.array([i]), name) for name, i in constants.items()],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(opspec.DOMAIN, 1)],
        ir_version=8,
    )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("names", [("B", "S", "T"), (None, None, None), ("B", None, "T")])
def test_a_shape_made_from_the_outputs(
    names: tuple[str | None, str | None, str | None],
    level: Any,
    capfd: pytest.CaptureFixture[str],
) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.register_custom_ops_library(get_library_path())
    session = ort.InferenceSession(merging_heads(*names).SerializeToString(), options)
    for batch, queries, keys in [(2, 3, 5), (1, 7, 5), (3, 1, 0)]:
        feeds = qkv(batch=batch, queries=queries, keys=keys)
        (output,) = session.run(None, feeds)
        assert output.shape == (batch, queries, 64)
    assert "shape" not in capfd.readouterr().err.lower(), "the runtime warns of wrong shapes"
