"""The body that travels with a model: added once, kept in step with its nodes, removed with the last."""

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from qfa_passes.core import opspec
from qfa_passes.core.formats import Rotation
from qfa_passes.errors import UnsupportedModelError
from qfa_passes.fuse.attach_body import attach_body, present_channels, present_rotation
from tests.operator.sessions import VALID, run
from tests.reference.attention_cases import nmse


def model_of(
    *nodes: dict[str, object], opset: int = 17, ir_version: int = 8, channels: int = 16
) -> ModelProto:
    """Returns a model of fused nodes without body; each dictionary holds attributes and ``inputs``."""
    made, outputs = [], []
    for index, node in enumerate(nodes):
        settings = {**VALID, **node}
        names = settings.pop("inputs", ["q", "k", "v"])
        made.append(
            helper.make_node(opspec.OP_TYPE, names, [f"y{index}"], domain=opspec.DOMAIN, **settings)
        )
        outputs.append(
            helper.make_tensor_value_info(f"y{index}", TensorProto.FLOAT, [1, 4, None, channels])
        )
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, heads, None, channels])
        for name, heads in (("q", 4), ("k", 2), ("v", 2))
    ]
    inputs.append(helper.make_tensor_value_info("mask", TensorProto.BOOL, ["rows", "keys"]))
    if not nodes:
        made = [helper.make_node("Identity", ["q"], ["y"])]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, None, channels])]
    return helper.make_model(
        helper.make_graph(made, "fused", inputs, outputs),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=ir_version,
    )


def feeds(rows: int = 5, keys: int = 70) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "q": rng.standard_normal((1, 4, rows, 16)).astype(np.float32),
        "k": rng.standard_normal((1, 2, keys, 16)).astype(np.float32),
        "v": rng.standard_normal((1, 2, keys, 16)).astype(np.float32),
        "mask": rng.random((rows, keys)) < 0.5,
    }


def bodies(model: ModelProto) -> list[onnx.FunctionProto]:
    return [f for f in model.functions if (f.domain, f.name) == (opspec.DOMAIN, opspec.OP_TYPE)]


@pytest.mark.parametrize("opset", [15, 17, 18, 23])
def test_model_with_a_body_needs_no_library(opset: int) -> None:
    model = model_of({}, opset=opset)
    assert attach_body(model, 16) == 1
    onnx.checker.check_model(model, full_check=True)
    assert len(bodies(model)) == 1
    imported = {entry.domain: entry.version for entry in model.opset_import}
    assert imported[opspec.DOMAIN] == opspec.DOMAIN_VERSION
    kernel, body = (run(model, feeds(), library=library)[0] for library in (True, False))
    assert nmse(body, kernel) < 1e-4


def test_nodes_that_differ_share_one_body() -> None:
    """A node without mask gets a neutral one; causal or not is asked at run time."""
    model = model_of(
        {}, {"inputs": ["q", "k", "v", "mask"]}, {"is_causal": 1, "scale": 0.1, "name": "third"}
    )
    assert attach_body(model, 16) == 3
    assert len(bodies(model)) == 1
    neutral = f"{opspec.DOMAIN}/neutral_attn_mask"
    assert [list(node.input)[3:] for node in model.graph.node] == [[neutral], ["mask"], [neutral]]
    assert [tensor.name for tensor in model.graph.initializer] == [neutral]
    onnx.checker.check_model(model, full_check=True)
    for kernel, body in zip(run(model, feeds()), run(model, feeds(), library=False), strict=True):
        assert nmse(body, kernel) < 1e-4


def test_old_container_is_raised_to_one_that_has_functions() -> None:
    model = model_of({}, ir_version=7)
    attach_body(model, 16)
    assert model.ir_version == 8


def test_newer_container_is_kept() -> None:
    model = model_of({}, ir_version=10)
    attach_body(model, 16)
    assert model.ir_version == 10


def test_attaching_twice_changes_nothing() -> None:
    model = model_of({}, {"inputs": ["q", "k", "v", "mask"]})
    attach_body(model, 16)
    once = model.SerializeToString(deterministic=True)
    attach_body(model, 16)
    assert model.SerializeToString(deterministic=True) == once


def test_body_follows_a_change_of_the_nodes() -> None:
    model = model_of({})
    attach_body(model, 16)
    assert "attn_mask" not in bodies(model)[0].input
    model.graph.node[0].input.append("mask")
    attach_body(model, 16)
    assert "attn_mask" in bodies(model)[0].input


def test_model_without_nodes_loses_a_body_that_is_left_over() -> None:
    model, other = model_of(), model_of({})
    attach_body(other, 16)
    model.functions.append(other.functions[0])
    assert attach_body(model, None) == 0
    assert len(model.functions) == 0
    assert [entry.domain for entry in model.opset_import] == [""]


def test_other_functions_stay() -> None:
    model = model_of({})
    twice = helper.make_function(
        "mine",
        "Twice",
        ["x"],
        ["y"],
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [helper.make_opsetid("", 17)],
    )
    model.functions.append(twice)
    attach_body(model, 16)
    assert model.functions[0] == twice


def test_rotation_needs_one_channel_count() -> None:
    with pytest.raises(UnsupportedModelError, match="rotate=none"):
        attach_body(model_of({"rotate": "hadamard"}), None)


def test_nodes_of_two_rotations_have_no_common_body() -> None:
    with pytest.raises(UnsupportedModelError, match="hadamard"):
        attach_body(model_of({"rotate": "hadamard"}, {}), 16)


def test_what_a_fused_model_already_holds() -> None:
    assert present_rotation(model_of()) is None
    assert present_channels(model_of()) == set()
    for rotation in Rotation:
        model = model_of({"rotate": rotation.value}, {"rotate": rotation.value})
        assert present_rotation(model) is rotation
        assert present_channels(model) == {16}
    del model.graph.input[0]
    assert present_channels(model) == {0}, "unknown"
