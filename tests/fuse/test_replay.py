"""One site alone: the model gets what the site reads and computes what the site will compute."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper

from qfa_passes.core.formats import Rotation, ScaleMode
from qfa_passes.core.plan import SitePlan, StaticScales
from qfa_passes.core.site import Mask, MaskKind, MaskTerm
from qfa_passes.fuse.attach_body import attach_body
from qfa_passes.fuse.fuse_attention import FuseAttention
from qfa_passes.fuse.replay import replay_model, site_values
from qfa_passes.graph.ir import Graph
from tests.operator.sessions import run
from tests.reference.attention_cases import nmse
from tests.reference.golden_graphs import GROUPED_SITE, golden, parse

PLANS = {
    "plain": SitePlan("attention"),
    "rotated": SitePlan("attention", rotation=Rotation.HADAMARD),
    "static": SitePlan(
        "attention",
        scale_mode=ScaleMode.STATIC,
        scales=StaticScales((0.03,), (0.03, 0.04), (0.03,)),
    ),
}
SHIFT = np.random.default_rng(1).standard_normal((2, 16)).astype(np.float32)


def examples() -> dict[str, npt.NDArray[np.generic]]:
    rng = np.random.default_rng(0)
    return {
        "q": rng.standard_normal((2, 4, 7, 16)).astype(np.float32),
        "k": rng.standard_normal((2, 2, 70, 16)).astype(np.float32),
        "v": rng.standard_normal((2, 70, 2, 8)).astype(np.float32),
        "keep": rng.random((2, 1, 1, 70)) < 0.7,
    }


@pytest.mark.parametrize("library", [True, False], ids=["kernel", "body"])
@pytest.mark.parametrize("shift", [None, SHIFT], ids=["", "shifted"])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_replay_gives_the_numbers_of_the_fused_block(
    plan: SitePlan, shift: npt.NDArray[np.float32] | None, library: bool
) -> None:
    replay = replay_model(GROUPED_SITE, plan, shift, examples(), 17)
    onnx.checker.check_model(replay)
    assert [value.name for value in replay.graph.input] == site_values(GROUPED_SITE)
    assert [value.name for value in replay.graph.output] == ["o"]
    graph = Graph(golden("grouped_block"))
    FuseAttention([(GROUPED_SITE, plan)], {} if shift is None else {"attention": shift})(graph)
    whole = graph.finish()
    attach_body(whole, 16)
    (wanted,), (actual,) = (run(model, examples(), library=library) for model in (whole, replay))
    np.testing.assert_array_equal(actual, wanted)


def test_replay_takes_other_sizes_than_the_examples() -> None:
    replay = replay_model(GROUPED_SITE, PLANS["plain"], None, examples(), 17)
    other = examples()
    other = {
        "q": other["q"][:1, :, :1],
        "k": other["k"][:1, :, :3],
        "v": other["v"][:1, :3],
        "keep": other["keep"][:1, :, :, :3],
    }
    assert run(replay, other)[0].shape == (1, 4, 1, 8)


def test_values_that_serve_twice_are_asked_for_once() -> None:
    site = replace(
        GROUPED_SITE,
        value=GROUPED_SITE.key,
        mask=Mask(terms=(MaskTerm("keep", MaskKind.KEEP), MaskTerm("keep", MaskKind.DROP))),
    )
    assert site_values(site) == ["q", "k", "keep"]


def test_query_that_is_key_and_value_too() -> None:
    site = replace(
        GROUPED_SITE,
        query=replace(GROUPED_SITE.query, tensor="x"),
        key=replace(GROUPED_SITE.key, tensor="x"),
        value=replace(GROUPED_SITE.value, tensor="x", views=()),
        mask=Mask(causal=True),
        num_heads=2,
        v_channels=16,
    )
    x = np.random.default_rng(0).standard_normal((1, 2, 70, 16)).astype(np.float32)
    replay = replay_model(site, PLANS["plain"], None, {"x": x}, 23)
    (actual,) = run(replay, {"x": x})
    text = "self (float[1, 2, 70, 16] x) => (float[1, 2, 70, 16] y)"
    reference = parse(f"{text} {{ y = Attention <is_causal = 1, scale = 0.25> (x, x, x) }}", 23)
    assert nmse(actual, run(reference, {"x": x}, library=False)[0]) < 5e-4


def test_opset_of_the_model_is_kept() -> None:
    for opset in (17, 18, 23):
        replay = replay_model(GROUPED_SITE, PLANS["plain"], None, examples(), opset)
        assert helper.make_opsetid("", opset) in replay.opset_import
