"""A block becomes one operator: its inputs, its attributes, and what it computes."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from qfa_passes.core import opspec
from qfa_passes.core.formats import Rotation, ScaleMode
from qfa_passes.core.passes import Contract
from qfa_passes.core.plan import SitePlan, StaticScales
from qfa_passes.core.site import AttentionSite, Mask, Operand
from qfa_passes.fuse.attach_body import attach_body
from qfa_passes.fuse.fuse_attention import FuseAttention
from qfa_passes.graph.ir import Graph
from qfa_passes.quant.attention import Masking, attention_float64
from tests.operator.sessions import run
from tests.reference.attention_cases import nmse
from tests.reference.golden_graphs import GROUPED_SITE, assert_golden, golden, parse

PLAN = SitePlan("attention")
STATIC = replace(
    PLAN,
    scale_mode=ScaleMode.STATIC,
    scales=StaticScales((0.03,), (0.03, 0.035), (0.03,)),
)


def fused(
    model: ModelProto,
    site: AttentionSite = GROUPED_SITE,
    plan: SitePlan = PLAN,
    k_mean: npt.NDArray[np.float32] | None = None,
) -> ModelProto:
    graph = Graph(model)
    shifts = {} if k_mean is None else {site.name: k_mean}
    assert FuseAttention([(site, plan)], shifts)(graph).changes == 1
    return graph.finish()


def node_of(model: ModelProto) -> NodeProto:
    (node,) = [node for node in model.graph.node if node.op_type == opspec.OP_TYPE]
    return node


def attributes(model: ModelProto) -> dict[str, object]:
    return {item.name: helper.get_attribute_value(item) for item in node_of(model).attribute}


def constant_input(model: ModelProto, name: str) -> npt.NDArray[np.generic]:
    wanted = node_of(model).input[opspec.input_index(name)]
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == wanted))


def feeds() -> dict[str, npt.NDArray[np.generic]]:
    rng = np.random.default_rng(0)
    return {
        "q": rng.standard_normal((2, 4, 70, 16)).astype(np.float32),
        "k": rng.standard_normal((2, 2, 90, 16)).astype(np.float32),
        "v": rng.standard_normal((2, 90, 2, 8)).astype(np.float32),
        "keep": rng.random((2, 1, 1, 90)) < 0.7,
    }


def test_block_becomes_one_node() -> None:
    assert_golden(fused(golden("grouped_block")), "grouped_block.fused")


def test_pairs_are_absorbed() -> None:
    site = replace(
        GROUPED_SITE,
        query=replace(GROUPED_SITE.query, scale=(0.5,)),
        key=replace(GROUPED_SITE.key, scale=(0.25,)),
        value=replace(GROUPED_SITE.value, scale=(0.125,)),
    )
    assert_golden(fused(golden("grouped_block.qdq"), site), "grouped_block.fused")


def test_pass_says_what_it_promises() -> None:
    assert FuseAttention.contract is Contract.QUANTIZES
    assert not FuseAttention([], {})(Graph(golden("grouped_block"))).modified


@pytest.mark.parametrize("library", [True, False], ids=["kernel", "body"])
@pytest.mark.parametrize("rotation", list(Rotation))
@pytest.mark.parametrize("shifted", [False, True])
def test_fused_block_is_attention(library: bool, rotation: Rotation, shifted: bool) -> None:
    shift = np.random.default_rng(1).standard_normal((2, 16)).astype(np.float32)
    model = fused(
        golden("grouped_block"),
        plan=replace(PLAN, rotation=rotation),
        k_mean=shift if shifted else None,
    )
    attach_body(model, 16)
    inputs = feeds()
    value = inputs["v"].transpose(0, 2, 1, 3)
    wanted = attention_float64(
        inputs["q"], inputs["k"], value, scale=0.25, masking=Masking(mask=inputs["keep"])
    )
    assert nmse(run(model, inputs, library=library)[0], wanted) < 5e-4


@pytest.mark.parametrize("library", [True, False], ids=["kernel", "body"])
def test_static_steps_are_inputs(library: bool) -> None:
    model = fused(golden("grouped_block"), plan=STATIC)
    assert attributes(model)["scale_mode"] == b"static"
    assert constant_input(model, "q_scale").shape == ()
    np.testing.assert_array_equal(constant_input(model, "k_scale"), np.float32([0.03, 0.035]))
    attach_body(model, 16)
    inputs = feeds()
    value = inputs["v"].transpose(0, 2, 1, 3)
    wanted = attention_float64(
        inputs["q"], inputs["k"], value, scale=0.25, masking=Masking(mask=inputs["keep"])
    )
    assert nmse(run(model, inputs, library=library)[0], wanted) < 2e-3


def test_static_steps_of_pairs_are_used_where_the_plan_has_none() -> None:
    site = replace(
        GROUPED_SITE,
        query=replace(GROUPED_SITE.query, scale=(0.5,)),
        key=replace(GROUPED_SITE.key, scale=(0.25,)),
        value=replace(GROUPED_SITE.value, scale=(0.125,)),
    )
    model = fused(golden("grouped_block.qdq"), site, replace(STATIC, scales=None))
    assert constant_input(model, "q_scale") == np.float32(0.5)
    assert constant_input(model, "v_scale") == np.float32(0.125)


@pytest.mark.parametrize(
    ("site", "plan", "name", "value"),
    [
        (replace(GROUPED_SITE, mask=Mask(causal=True)), PLAN, "is_causal", 1),
        (replace(GROUPED_SITE, scale=0.1), PLAN, "scale", float(np.float32(0.1))),
        (GROUPED_SITE, replace(PLAN, rotation=Rotation.HADAMARD), "rotate", b"hadamard"),
        (GROUPED_SITE, PLAN, "compute_format", b"int8"),
    ],
)
def test_attributes_follow_site_and_plan(
    site: AttentionSite, plan: SitePlan, name: str, value: object
) -> None:
    assert attributes(fused(golden("grouped_block"), site, plan))[name] == value


def test_every_attribute_is_written() -> None:
    assert list(attributes(fused(golden("grouped_block")))) == [x.name for x in opspec.ATTRIBUTES]


def test_inputs_that_are_left_out_are_empty() -> None:
    shift = np.zeros((2, 16), np.float32)
    node = node_of(fused(golden("grouped_block"), k_mean=shift))
    names = [
        "q",
        "k",
        "attention/value_transpose_output",
        "keep",
        "",
        "",
        "",
        "",
        "attention/k_mean",
    ]
    assert list(node.input) == names


def test_names_that_are_taken_are_avoided() -> None:
    model = golden("grouped_block")
    model.graph.initializer.append(
        numpy_helper.from_array(np.zeros(3, np.float32), "attention/k_mean")
    )
    model.graph.node.append(
        helper.make_node("Neg", ["attention/k_mean"], ["other"], "attention/QuantFlashAttention")
    )
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, [3]))
    result = fused(model, k_mean=np.zeros((2, 16), np.float32))
    node = node_of(result)
    assert node.name.startswith("attention/QuantFlashAttention_")
    assert constant_input(result, "k_mean").shape == (2, 16)
    names = [other.name for other in result.graph.node]
    assert len(set(names)) == len(names) == 3


def test_two_blocks_that_share_keys_and_mask() -> None:
    model = parse(
        """
        two (float[b, 2, s, 8] q, float[b, 2, s, 8] x, float[s, s] bias) => (float[b, 2, s, 8] z)
        {
            [first] y = Attention (q, x, x, bias)
            [second] z = Attention (y, x, x, bias)
        }""",
        opset=23,
    )
    graph = Graph(model)
    sites = [
        replace(
            GROUPED_SITE,
            name=name,
            query=Operand(query, path=(name,)),
            key=Operand("x", path=(name,)),
            value=Operand("x", path=(name,)),
            output=output,
            mask=Mask(causal=True),
            num_heads=2,
            qk_channels=8,
        )
        for name, query, output in (("first", "q", "y"), ("second", "y", "z"))
    ]
    FuseAttention([(site, PLAN) for site in sites], {})(graph)
    model = graph.finish()
    assert [list(node.input) for node in model.graph.node] == [["q", "x", "x"], ["y", "x", "x"]]
    assert [value.name for value in model.graph.output] == ["z"]
