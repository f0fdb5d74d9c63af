"""All that a site can say, in the graph: views, cache, lengths, sink, masks that are short, scaled or viewed."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import ModelProto, TensorProto

from qfa_passes.core import opspec
from qfa_passes.core.formats import AttentionFormat
from qfa_passes.core.plan import SitePlan
from qfa_passes.core.site import AttentionSite, Cache, Mask, MaskKind, MaskTerm, Operand
from qfa_passes.core.view import View, ViewOp, merge_heads, permute, split_heads
from qfa_passes.fuse.attach_body import attach_body
from qfa_passes.fuse.fuse_attention import FuseAttention
from qfa_passes.fuse.lower_operands import has_flat_heads
from qfa_passes.fuse.replay import replay_model
from qfa_passes.graph.ir import Graph
from qfa_passes.quant.attention import Masking, attention_float64
from tests.operator.sessions import run
from tests.reference.attention_cases import nmse
from tests.reference.attention_models import merged
from tests.reference.body_cases import run_reference
from tests.reference.golden_graphs import assert_golden, golden

Array = npt.NDArray[Any]
INT8 = SitePlan("attention")
FLOAT = SitePlan("attention", format=AttentionFormat.FLOAT)
LIBRARY = pytest.mark.parametrize("library", [True, False], ids=["kernel", "body"])

FLAT = AttentionSite(
    name="attention",
    query=Operand("q", split_heads(4, 16), path=("attention",)),
    key=Operand("k", split_heads(2, 16), path=("heads_k",)),
    value=Operand("v", split_heads(2, 8), path=("heads_v",)),
    output="o",
    mask=Mask(),
    scale=0.25,
    num_heads=4,
    kv_num_heads=2,
    qk_channels=16,
    v_channels=8,
    dtype=TensorProto.FLOAT,
    nodes=("attention",),
    exporter="decomposed",
    output_views=merge_heads(4, 8),
)
"""Q, K, V and output as (B, rows, heads * channels)."""

CACHED = replace(
    FLAT,
    mask=Mask(
        causal=True,
        terms=(MaskTerm("keep", MaskKind.KEEP, fewer_keys=True),),
        queries_at_end=True,
        left_window=30,
        kv_length="lengths",
    ),
    sink="sinks",
    cache=Cache("past_k", "past_v", "present_k", "present_v"),
)
"""The site of cached_block.txt."""


def operands(rows: int = 5, keys: int = 70) -> dict[str, Array]:
    """Q, K and V as (B, heads, rows, channels)."""
    rng = np.random.default_rng(0)
    return {
        "q": rng.standard_normal((2, 4, rows, 16)).astype(np.float32),
        "k": rng.standard_normal((2, 2, keys, 16)).astype(np.float32),
        "v": rng.standard_normal((2, 2, keys, 8)).astype(np.float32),
    }


def replayed(
    site: AttentionSite, inputs: dict[str, Array], library: bool, plan: SitePlan = INT8
) -> list[Array]:
    """What the fused site gives, in ONNX Runtime."""
    model = replay_model(site, plan, None, inputs, 18)
    onnx.checker.check_model(model, full_check=True)
    return run(model, inputs, library=library)


def operators(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node if node.op_type != opspec.OP_TYPE]


def test_everything_that_a_site_says_is_in_the_graph() -> None:
    graph = Graph(golden("cached_block"))
    FuseAttention([(CACHED, INT8)], {})(graph)
    assert_golden(graph.finish(), "cached_block.fused")


@LIBRARY
def test_a_cached_block_computes_the_same(library: bool) -> None:
    graph = Graph(golden("cached_block"))
    FuseAttention([(CACHED, INT8)], {})(graph)
    model = graph.finish()
    attach_body(model, 16)
    onnx.checker.check_model(model, full_check=True)
    new, rng = operands(rows=40, keys=40), np.random.default_rng(1)
    past = {
        "past_k": rng.standard_normal((2, 2, 30, 16)).astype(np.float32),
        "past_v": rng.standard_normal((2, 2, 30, 8)).astype(np.float32),
    }
    keep = rng.random((40, 65)) < 0.8
    sinks, lengths = np.float32([0, 1, -2, 3]), np.array([69, 55], np.int32)
    feeds = {name: merged(x) for name, x in new.items()} | past
    feeds |= {"lengths": lengths, "keep": keep, "sinks": sinks}
    output, key, value = run(model, feeds, library=library)
    np.testing.assert_array_equal(key, np.concatenate([past["past_k"], new["k"]], axis=2))
    np.testing.assert_array_equal(value, np.concatenate([past["past_v"], new["v"]], axis=2))
    masking = Masking(
        causal=True,
        mask=np.pad(keep, ((0, 0), (0, 5))),
        queries_at_end=True,
        left_window=30,
        kv_length=lengths,
    )
    wanted = attention_float64(new["q"], key, value, scale=0.25, masking=masking, sink=sinks)
    assert nmse(output, merged(wanted)) < 5e-4


def test_blocks_that_share_their_keys_share_the_present_ones() -> None:
    model = golden("cached_block")
    model.graph.node.append(model.graph.node[-1])
    second = model.graph.node[-1]
    second.name, second.output[0] = "second", "o2"
    model.graph.output.append(model.graph.output[0])
    model.graph.output[-1].name = "o2"
    graph = Graph(model)
    other = replace(CACHED, name="second", output="o2")
    FuseAttention([(CACHED, INT8), (other, INT8)], {})(graph)
    fused = graph.finish()
    nodes = [node for node in fused.graph.node if node.op_type == opspec.OP_TYPE]
    assert [list(node.output) for node in nodes] == [["o", "present_k", "present_v"], ["o2"]]


@LIBRARY
@pytest.mark.parametrize("missing", ["present_key", "present_value"])
def test_one_of_the_present_values_alone(missing: str, library: bool) -> None:
    cache = replace(Cache("past_k", "past_v", "present_k", "present_v"), **{missing: None})
    site = replace(FLAT, cache=cache)
    new, rng = operands(), np.random.default_rng(1)
    past = {
        "past_k": rng.standard_normal((2, 2, 30, 16)).astype(np.float32),
        "past_v": rng.standard_normal((2, 2, 30, 8)).astype(np.float32),
    }
    inputs = {name: merged(x) for name, x in new.items()} | past
    model = replay_model(site, INT8, None, inputs, 18)
    (node,) = [node for node in model.graph.node if node.op_type == opspec.OP_TYPE]
    wanted = {"present_key": ["o", "", "present_v"], "present_value": ["o", "present_k", ""]}
    assert list(node.output) == wanted[missing]
    output, present = replayed(site, inputs, library)
    key, value = (np.concatenate([past[f"past_{letter}"], new[letter]], axis=2) for letter in "kv")
    np.testing.assert_array_equal(present, value if missing == "present_key" else key)
    assert nmse(output, merged(attention_float64(new["q"], key, value, scale=0.25))) < 5e-4


LAYOUTS = {
    "heads apart": replace(
        FLAT,
        query=replace(FLAT.query, views=()),
        key=replace(FLAT.key, views=()),
        value=replace(FLAT.value, views=()),
        output_views=(),
    ),
    "flat": FLAT,
    "flat but for the output": replace(FLAT, output_views=()),
    "flat but for the query": replace(FLAT, query=replace(FLAT.query, views=())),
    "heads last": replace(FLAT, query=replace(FLAT.query, views=permute(0, 2, 1, 3))),
}


@LIBRARY
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_mean_the_same(name: str, library: bool) -> None:
    site, given = LAYOUTS[name], operands()
    inputs = {
        letter: merged(given[letter])
        if operand.views[:1] == split_heads(1, 1)[:1] or len(operand.views) == 2
        else given[letter].transpose(0, 2, 1, 3)
        if operand.views
        else given[letter]
        for letter, operand in (("q", site.query), ("k", site.key), ("v", site.value))
    }
    wanted = attention_float64(given["q"], given["k"], given["v"], scale=0.25)
    (output,) = replayed(site, inputs, library)
    assert nmse(output, merged(wanted) if site.output_views else wanted) < 5e-4


def test_three_axes_go_in_without_transposes() -> None:
    assert [has_flat_heads(site) for site in LAYOUTS.values()] == [False, True, False, False, False]
    model = replay_model(FLAT, INT8, None, {n: merged(x) for n, x in operands().items()}, 18)
    assert operators(model) == []


@LIBRARY
def test_a_mask_with_fewer_keys_hides_the_rest(library: bool) -> None:
    given, rng = operands(), np.random.default_rng(2)
    terms = {
        "keep": (MaskKind.KEEP, rng.random((5, 61)) < 0.8),
        "drop": (MaskKind.DROP, rng.random((2, 1, 5, 66)) < 0.2),
        "bias": (MaskKind.BIAS, rng.standard_normal((4, 1, 64)).astype(np.float32)),
        "half": (MaskKind.BIAS, rng.standard_normal(70).astype(np.float16)),
    }
    site = replace(
        LAYOUTS["heads apart"],
        mask=Mask(
            terms=tuple(MaskTerm(name, kind, fewer_keys=True) for name, (kind, _) in terms.items())
        ),
    )
    values = {name: value for name, (_, value) in terms.items()}
    bias = np.zeros((4, 5, 70))
    bias[..., 61:] = -np.inf
    bias[..., :64] += values["bias"]
    seen = np.pad(values["keep"], ((0, 0), (0, 9))) & np.pad(
        ~values["drop"], ((0, 0), (0, 0), (0, 0), (0, 4))
    )
    masking = Masking(mask=seen, bias=bias + values["half"])
    wanted = attention_float64(given["q"], given["k"], given["v"], scale=0.25, masking=masking)
    (output,) = replayed(site, given | values, library)
    assert nmse(output, wanted) < 5e-4


@LIBRARY
def test_a_filled_mask_with_fewer_keys(library: bool) -> None:
    """Keys that the mask names get the fill, those beyond it are not there at all."""
    given = operands()
    keep = np.zeros((5, 60), bool)
    keep[1:, :50] = True
    term = MaskTerm("keep", MaskKind.KEEP, fill=-1e9, fewer_keys=True)
    site = replace(LAYOUTS["heads apart"], mask=Mask(terms=(term,)))
    bias = np.full((5, 70), -np.inf)
    bias[:, :60] = np.where(keep, 0, -1e9)
    wanted = attention_float64(
        given["q"], given["k"], given["v"], scale=0.25, masking=Masking(bias=bias)
    )
    (output,) = replayed(site, given | {"keep": keep}, library)
    assert nmse(output[:, :, 1:], wanted[:, :, 1:]) < 5e-4
    average = given["v"][:, :, :60].mean(axis=2).repeat(2, axis=1)
    assert nmse(output[:, :, 0], average) < 5e-4


@LIBRARY
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_factor_scales_a_bias_and_leaves_minus_infinity(library: bool, dtype: Any) -> None:
    given = operands()
    bias = np.random.default_rng(3).standard_normal((5, 70)).astype(dtype)
    bias[:, 40:] = -np.inf
    site = replace(
        LAYOUTS["heads apart"], mask=Mask(terms=(MaskTerm("b", MaskKind.BIAS, factor=0.125),))
    )
    masking = Masking(bias=bias.astype(np.float32) * np.float32(0.125))
    wanted = attention_float64(given["q"], given["k"], given["v"], scale=0.25, masking=masking)
    (output,) = replayed(site, given | {"b": bias}, library)
    assert nmse(output, wanted) < 5e-4


@LIBRARY
def test_masks_are_viewed(library: bool) -> None:
    given = operands()
    keep = np.random.default_rng(4).random((2, 70)) < 0.7
    views = (View(ViewOp.UNSQUEEZE, (1, 2)),)
    site = replace(
        LAYOUTS["heads apart"], mask=Mask(terms=(MaskTerm("keep", MaskKind.KEEP, views=views),))
    )
    masking = Masking(mask=keep[:, None, None])
    wanted = attention_float64(given["q"], given["k"], given["v"], scale=0.25, masking=masking)
    (output,) = replayed(site, given | {"keep": keep}, library)
    assert nmse(output, wanted) < 5e-4


@LIBRARY
@pytest.mark.parametrize("plan", [INT8, FLOAT], ids=["int8", "float"])
def test_softcap_and_format(library: bool, plan: SitePlan) -> None:
    given = operands()
    site = replace(LAYOUTS["heads apart"], softcap=2.0)
    (output,) = replayed(site, given, library, plan)
    wanted = attention_float64(given["q"], given["k"], given["v"], scale=0.25, softcap=2.0)
    assert nmse(output, wanted) < (5e-4 if plan is INT8 else 1e-9)


def test_onnx_reference_runs_a_fused_model() -> None:
    given = {name: merged(x) for name, x in operands().items()}
    wanted = attention_float64(*operands().values(), scale=0.25)
    model = replay_model(FLAT, FLOAT, None, given, 18)
    (output,) = run_reference(model, given)
    assert nmse(output, merged(wanted)) < 1e-9
