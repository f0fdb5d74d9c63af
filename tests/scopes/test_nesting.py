"""Bodies inside bodies."""

import pytest

from qfa_passes import api
from tests.end_to_end.outcomes import assert_valid, float_outputs, outputs, statuses, worst
from tests.scopes.models import branch_in_a_branch, flagged


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("inner", [True, False])
def test_branch_in_a_branch(outer: bool, inner: bool) -> None:
    model = branch_in_a_branch()
    result = api.optimize(model)
    assert statuses(result) == ["fused"] * 3
    assert result.report.sites[0].name.startswith("maybe/then_branch/choice/")
    assert_valid(result.model)
    feed = flagged(inner, any=outer)
    wanted = float_outputs(model, feed)
    assert worst(outputs(result.model, feed), wanted) < 5e-4
    assert worst(outputs(result.model, feed, library=False), wanted) < 5e-4


def test_an_optimized_model_is_left_as_it_is() -> None:
    once = api.optimize(branch_in_a_branch()).model
    twice = api.optimize(once).model
    assert twice.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)
