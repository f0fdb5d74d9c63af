"""The order of stages, and what a round over them may cost."""

import pytest

from qfa_passes import api, pipeline
from tests.pipeline.fused_sources import with_contrib
from tests.reference.decoders import Decoder


def stages(**options: object) -> list[str]:
    result = api.optimize(Decoder().model(), **options)
    return [timing.stage for timing in result.report.timings]


def test_stages_in_order() -> None:
    assert stages() == [
        "normalize",
        "match",
        "calibrate",
        "prove",
        "plan",
        "rewrite",
        "fuse",
        "verify",
    ]


@pytest.mark.parametrize(
    ("stop_after", "missing"),
    [("normalize", {"calibrate", "prove", "rewrite", "fuse"}), ("rewrite", {"fuse"})],
)
def test_stages_that_are_not_asked_for_do_not_run(stop_after: str, missing: set[str]) -> None:
    assert not missing & set(stages(stop_after=stop_after))


def test_what_is_excluded_by_name_is_left_alone_before_anything_is_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And where measuring puts everything back, nothing is left to run a second time."""
    calls: list[int] = []
    original = pipeline.calibrate

    def counted(*arguments: object, **options: object) -> object:
        calls.append(1)
        return original(*arguments, **options)

    monkeypatch.setattr(pipeline, "calibrate", counted)
    api.optimize(with_contrib(), exclude="attend_1")
    assert len(calls) == 1
    api.optimize(with_contrib(), max_error=0.0)
    assert len(calls) == 2
