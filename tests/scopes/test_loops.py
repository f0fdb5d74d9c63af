"""Attention in the body of a Loop or Scan."""

import numpy as np
import pytest
from onnx import ModelProto

from qfa_passes import api
from tests.end_to_end.outcomes import assert_valid, float_outputs, outputs, statuses, worst
from tests.scopes.models import DECODER, cached_loop, inner_nodes, scanned


def token() -> dict[str, np.ndarray]:
    return {"x0": np.random.default_rng(3).standard_normal((2, 1, 64)).astype(np.float32)}


@pytest.mark.parametrize(
    ("model", "feed", "name"),
    [
        (cached_loop(), token(), "turning/body/attend"),
        (scanned(), DECODER.feeds(), "stack/body/attend"),
    ],
    ids=["loop", "scan"],
)
def test_fused_and_right(model: ModelProto, feed: dict[str, np.ndarray], name: str) -> None:
    result = api.optimize(model)
    assert statuses(result) == ["fused"]
    assert result.report.sites[0].name == name
    assert not [text for text in result.report.warnings if "no run enters it" in text]
    assert_valid(result.model)
    assert [n.op_type for n in inner_nodes(result.model)].count("Softmax") == 0
    wanted = float_outputs(model, feed)
    assert worst(outputs(result.model, feed), wanted) < 2e-3
    assert worst(outputs(result.model, feed, library=False), wanted) < 2e-3
    twice = api.optimize(result.model).model
    same = twice.SerializeToString(deterministic=True)
    assert same == result.model.SerializeToString(deterministic=True)


def test_loop_that_never_turns_is_verified_on_its_first_turn() -> None:
    result = api.optimize(cached_loop(turns=0))
    assert statuses(result) == ["fused"]
    assert any("no run enters it" in text for text in result.report.warnings)


def test_a_carried_cache_grows_beyond_what_was_calibrated() -> None:
    model = cached_loop(turns=90)
    result = api.optimize(model)
    assert worst(outputs(result.model, token())[1:], float_outputs(model, token())[1:]) < 2e-3
