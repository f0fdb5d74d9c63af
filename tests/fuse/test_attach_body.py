"""The body that travels with a model: added once, kept in step with its nodes, removed with the last."""

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from qfa_passes.core import opspec
from qfa_passes.core.formats import Rotation
from qfa_passes.errors import UnsupportedModelError
from qfa_passes.fuse.attach_body import attach_body, holds_float, present_channels, present_rotation
from qfa_passes.quant.attention import Masking, attention_float64
from tests.operator.sessions import VALID, run
from tests.reference.attention_cases import nmse
from tests.reference.attention_models import merged
from tests.reference.golden_graphs import parse


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


def nested_model() -> ModelProto:
    """Returns a model with fused nodes in both branches of an If, one in a Loop in it, and one at the top."""
    text = """
        nested (float[1, 4, rows, 16] q, float[1, 2, keys, 16] k, float[1, 2, keys, 16] v, bool[rows, keys] mask,
                bool which, int64 trips)
            => (float[1, 4, rows, 16] a, float[1, 4, rows, 16] b)
        {
            yes = Constant <value = bool {1}> ()
            a = ai.qfa.QuantFlashAttention <ATTRIBUTES> (q, k, v)
            b = If (which) <
                then_branch = then_graph () => (float[1, 4, rows, 16] t)
                {
                    t = Loop (trips, yes, q) <
                        body = body_graph (int64 i, bool going, float[1, 4, rows, 16] x)
                            => (bool still, float[1, 4, rows, 16] y)
                        {
                            still = Identity (going)
                            y = ai.qfa.QuantFlashAttention <ATTRIBUTES> (x, k, v, mask)
                        }>
                },
                else_branch = else_graph () => (float[1, 4, rows, 16] e)
                {
                    e = ai.qfa.QuantFlashAttention <ATTRIBUTES, is_causal: int = 1> (q, k, v)
                }>
        }"""
    attributes = ", ".join(
        f"{name}: {kind} = {value}"
        for name, kind, value in (
            ("num_heads", "int", 4),
            ("kv_num_heads", "int", 2),
            ("scale", "float", 0.25),
            ("compute_format", "string", '"int8"'),
            ("scale_mode", "string", '"dynamic"'),
            ("rotate", "string", '"none"'),
        )
    )
    return parse(text.replace("ATTRIBUTES", attributes), opset=18)


@pytest.mark.parametrize("library", [True, False], ids=["kernel", "body"])
@pytest.mark.parametrize(("which", "trips"), [(True, 2), (True, 0), (False, 0)])
def test_nodes_in_nested_bodies_are_served(library: bool, which: bool, trips: int) -> None:
    model = nested_model()
    assert attach_body(model, 16) == 3
    assert len(bodies(model)) == 1
    onnx.checker.check_model(model, full_check=True)
    given = feeds()
    more = {"which": np.array(which), "trips": np.array(trips)}
    a, b = run(model, given | more, library=library)
    q, k, v = (given[name] for name in "qkv")
    assert nmse(a, attention_float64(q, k, v, scale=0.25)) < 5e-4
    if which:
        wanted: np.ndarray = q
        for _ in range(trips):
            wanted = attention_float64(
                wanted, k, v, scale=0.25, masking=Masking(mask=given["mask"])
            )
    else:
        wanted = attention_float64(q, k, v, scale=0.25, masking=Masking(causal=True))
    assert nmse(b, wanted) < 2e-3


def test_what_nested_nodes_hold_counts_too() -> None:
    model = nested_model()
    del model.graph.node[1]  # the one at the top
    assert present_rotation(model) is Rotation.NONE
    assert present_channels(model) == {16}


PAST = ["q", "k", "v", *[""] * 8, "past_k", "past_v"]


def past_model(*nodes: dict[str, object], flat: bool = False) -> ModelProto:
    model = model_of(*nodes, opset=18)
    for name in ("past_k", "past_v"):
        model.graph.input.append(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, None, 16])
        )
    if flat:
        for value, heads in zip(model.graph.input, (4, 2, 2), strict=False):
            value.CopyFrom(
                helper.make_tensor_value_info(value.name, TensorProto.FLOAT, [1, None, heads * 16])
            )
        for value in model.graph.output:
            value.CopyFrom(
                helper.make_tensor_value_info(value.name, TensorProto.FLOAT, [1, None, 64])
            )
    return model


@pytest.mark.parametrize("library", [True, False], ids=["kernel", "body"])
@pytest.mark.parametrize("flat", [False, True], ids=["four axes", "three axes"])
def test_nodes_without_past_get_an_empty_one(library: bool, flat: bool) -> None:
    model = past_model({}, {"inputs": PAST}, flat=flat)
    attach_body(model, 16)
    onnx.checker.check_model(model, full_check=True)
    once = model.SerializeToString(deterministic=True)
    attach_body(model, 16)
    assert model.SerializeToString(deterministic=True) == once
    given, rng = feeds(), np.random.default_rng(1)
    past = {name: rng.standard_normal((1, 2, 9, 16)).astype(np.float32) for name in PAST[-2:]}
    q, k, v = (given[name] for name in "qkv")
    wanted = [attention_float64(q, k, v, scale=0.25)]
    joined = (np.concatenate(pair, axis=2) for pair in ((past["past_k"], k), (past["past_v"], v)))
    wanted.append(attention_float64(q, *joined, scale=0.25))
    inputs = given | past
    if flat:
        inputs |= {name: merged(given[name]) for name in "qkv"}
        wanted = [merged(x) for x in wanted]
    for actual, expected in zip(run(model, inputs, library=library), wanted, strict=True):
        assert nmse(actual, expected) < 5e-4


def test_keys_of_unknown_shape_cannot_get_an_empty_past() -> None:
    model = past_model({}, {"inputs": PAST})
    model.graph.node.insert(0, helper.make_node("mystery", ["k"], ["hidden"], domain="mine"))
    model.graph.node[1].input[1] = "hidden"
    with pytest.raises(UnsupportedModelError, match="'hidden' is not known"):
        attach_body(model, 16)


def test_a_layout_that_is_not_known_is_asked_at_run_time() -> None:
    model = model_of({}, opset=18)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    attach_body(model, 16)
    kernel, body = (run(model, feeds(), library=library)[0] for library in (True, False))
    assert nmse(body, kernel) < 1e-4


def test_nodes_of_an_older_schema_are_completed() -> None:
    model = model_of({"schema_version": 1})
    attach_body(model, 16)
    written = {
        item.name: helper.get_attribute_value(item) for item in model.graph.node[0].attribute
    }
    assert list(written) == [item.name for item in opspec.ATTRIBUTES]
    assert written["schema_version"] == opspec.SCHEMA_VERSION


@pytest.mark.parametrize(
    ("name", "value"), [("kv_format", "int8"), ("kv_format", "fp8e5m2"), ("kv_update", "shared")]
)
def test_a_cache_of_codes_has_no_body(name: str, value: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"{name} {value}.*only caches of numbers"):
        attach_body(model_of({}, {name: value}), 16)


@pytest.mark.parametrize("form", ["fp8e4m3", "fp8e5m2"])
def test_the_body_of_a_node_in_fp8_is_in_float(form: str) -> None:
    """So is that of the node in int8 beside it."""
    model = model_of({"compute_format": form}, {})
    attach_body(model, 16)
    assert holds_float(model)
    arrays = [feeds()[name] for name in "qkv"]
    exact = attention_float64(*arrays, scale=0.25)
    for found in run(model, feeds(), library=False):
        assert nmse(found, exact) <= 1e-9
    narrow, integer = run(model, feeds())
    assert 1e-4 < nmse(narrow, exact) < 4e-2
    assert 1e-9 < nmse(integer, exact) < 5e-4
