"""Small models from the real exporters: every attention is found, in whatever form they write it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

pytest.importorskip("transformers", reason="the extra [models] is not installed")

from models import minilm, smollm2
from models.exporters import Exporter
from qfa_passes import api
from tests.end_to_end.outcomes import (
    Array,
    assert_valid,
    float_outputs,
    fused_count,
    outputs,
    statuses,
    worst,
)
from tests.operator.sessions import LEVELS

FORMS = [
    (Exporter.TORCHSCRIPT17, "sdpa"),
    (Exporter.TORCHSCRIPT17, "eager"),
    (Exporter.DYNAMO18, "sdpa"),
    (Exporter.DYNAMO23, "sdpa"),
]
BUILDERS = {"smollm2": smollm2, "minilm": minilm}
BOUNDS = {"smollm2": 5e-4, "minilm": 1e-6}
"""NMSE of the outputs. The tiny MiniLM has random weights that let attention count for little: with a scale wrong by a
fifth its error is 6e-6."""
Export = Callable[[str, Exporter, str], ModelProto]


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Returns a function that exports each tiny variant once."""

    @cache
    def build(builder: str, exporter: Exporter, attention: str) -> ModelProto:
        folder: Path = tmp_path_factory.mktemp("export")
        path = BUILDERS[builder].export(folder, exporter, attention=attention, tiny=True)
        return onnx.load(path)

    return build


def feeds(builder: str, batch: int, length: int, *, padded: bool) -> dict[str, Array]:
    ids = np.random.default_rng(length).integers(0, 128, (batch, length))
    mask = np.ones_like(ids)
    if padded:
        mask[0, : length // 3] = 0
        mask[-1, length // 2 :] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if builder == "minilm":
        inputs["token_type_ids"] = np.zeros_like(ids)
    return inputs


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form[0]}-{form[1]}")
@pytest.mark.parametrize("builder", list(BUILDERS))
def test_every_attention_is_fused_and_right(
    builder: str, form: tuple[Exporter, str], export: Export
) -> None:
    model = export(builder, *form)
    result = api.optimize(model)
    assert statuses(result) == ["fused", "fused"]
    assert fused_count(result.model) == 2
    assert_valid(result.model)
    for batch, length, padded in ((1, 1, False), (1, 90, False), (3, 40, True)):
        feed = feeds(builder, batch, length, padded=padded)
        seen = feed["attention_mask"].astype(bool)
        wanted = [value[seen] for value in float_outputs(model, feed)]
        for library in (True, False):
            got = [value[seen] for value in outputs(result.model, feed, library=library)]
            assert worst(got, wanted) < BOUNDS[builder], (batch, length, library)
        kernel, body = (
            [value[seen] for value in outputs(result.model, feed, library=library)]
            for library in (True, False)
        )
        assert worst(body, kernel) < BOUNDS[builder] / 5


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form[0]}-{form[1]}")
@pytest.mark.parametrize("builder", list(BUILDERS))
def test_qdq_graph_runs_in_stock_runtime_at_every_level(
    builder: str, form: tuple[Exporter, str], export: Export
) -> None:
    model = export(builder, *form)
    result = api.optimize(model, stop_after="rewrite")
    assert [node.op_type for node in result.model.graph.node].count("QuantizeLinear") == 6
    assert_valid(result.model)
    feed = feeds(builder, 2, 40, padded=True)
    seen = feed["attention_mask"].astype(bool)
    wanted = [value[seen] for value in float_outputs(model, feed)]
    for level in LEVELS:
        got = [value[seen] for value in outputs(result.model, feed, library=False, level=level)]
        assert worst(got, wanted) < 10 * BOUNDS[builder]


@pytest.mark.parametrize("builder", list(BUILDERS))
def test_normalized_graph_computes_the_same(builder: str, export: Export) -> None:
    model = export(builder, *FORMS[0])
    result = api.optimize(model, stop_after="normalize", verify="full")
    feed = feeds(builder, 2, 40, padded=True)
    assert worst(outputs(result.model, feed, library=False), float_outputs(model, feed)) < 1e-8
