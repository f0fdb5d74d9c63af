"""Every architecture of the zoo, as its exporter writes it: matched, fused in float, and the same outputs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

import qfa_passes
from models.zoo.samples import relative_difference
from qfa_passes.api import count_fused
from qfa_passes.core.outcome import SiteStatus
from tests.zoo.golden_models import Golden, read_goldens

GOLDENS = {golden.name: golden for golden in read_goldens()}
# Relative to the spread of an output: float32 through two layers, and a rotation or two.
CLOSE = 2e-4


@pytest.mark.parametrize("name", GOLDENS)
def test_what_is_expected_is_fused_and_computes_the_same(name: str) -> None:
    golden = GOLDENS[name]
    model = golden.model()
    result = qfa_passes.optimize(model, format="float", verify="off")
    states = Counter(site.status for site in result.report.sites)
    reasons = [site.reason for site in result.report.sites if site.reason]
    assert (states[SiteStatus.FUSED], states.total()) == (
        golden.fused,
        golden.fused + len(golden.refusals),
    ), reasons
    assert count_fused(result.model) == golden.fused
    for expected, actual in zip(run(model, golden), run(result.model, golden), strict=True):
        assert np.isfinite(expected).all()
        assert actual.shape == expected.shape
        assert relative_difference(actual, expected) <= CLOSE


def run(model: onnx.ModelProto, golden: Golden) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.register_custom_ops_library(str(qfa_passes.get_library_path()))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, golden.feeds())


def test_nothing_that_is_matched_is_more_than_there_is() -> None:
    assert all(golden.fused <= golden.blocks for golden in GOLDENS.values())


def test_nearly_every_block_is_fused() -> None:
    fused = sum(golden.fused for golden in GOLDENS.values())
    assert fused / sum(golden.blocks for golden in GOLDENS.values()) >= 0.96
