"""Streaming statistics against the same quantities over all data at once."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfa_passes.calibrate import SiteStatistics
from qfa_passes.core.site import Cache
from qfa_passes.core.view import permute
from qfa_passes.errors import InvalidDataError
from tests.reference.golden_graphs import GROUPED_SITE


def run(seed: int, batch: int = 2, keys: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "q": rng.standard_normal((batch, 4, 3, 16)).astype(np.float32),
        "k": rng.standard_normal((batch, 2, keys, 16)).astype(np.float32),
        "v": rng.standard_normal((batch, keys, 2, 8)).astype(np.float32),
    }


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 3), st.integers(1, 9)), min_size=1))
def test_runs_add_up(shapes: list[tuple[int, int, int]]) -> None:
    statistics = SiteStatistics(GROUPED_SITE)
    runs = [run(*shape) for shape in shapes]
    for number, values in enumerate(runs):
        statistics.update(values, f"run {number}")
    scales = statistics.scales()
    for letter, step in (("q", scales.query), ("k", scales.key), ("v", scales.value)):
        peak = max(float(np.abs(values[letter]).max()) for values in runs)
        assert step == pytest.approx((peak / 127,), rel=1e-6)
    keys = np.concatenate([values["k"].swapaxes(0, 1).reshape(2, -1, 16) for values in runs], 1)
    shift = statistics.k_mean()
    assert shift is not None and shift.dtype == np.float32
    np.testing.assert_allclose(shift, keys.mean(axis=1, dtype=np.float64), atol=1e-6)


def test_key_in_another_layout_is_permuted() -> None:
    turned = replace(GROUPED_SITE, key=replace(GROUPED_SITE.key, views=permute(0, 2, 1, 3)))
    values = run(0)
    statistics, expected = SiteStatistics(turned), SiteStatistics(GROUPED_SITE)
    statistics.update({**values, "k": values["k"].transpose(0, 2, 1, 3)}, "run 0")
    expected.update(values, "run 0")
    np.testing.assert_array_equal(statistics.k_mean(), expected.k_mean())


def test_past_keys_and_values_count_too() -> None:
    cached = replace(GROUPED_SITE, cache=Cache("past_k", "past_v"))
    values, other = run(0), run(1, keys=7)
    values["k"] *= 0.5
    past = {"past_k": other["k"], "past_v": other["v"].transpose(0, 2, 1, 3)}
    statistics = SiteStatistics(cached)
    statistics.update(values | past, "run 0")
    whole = np.concatenate([past["past_k"], values["k"]], axis=2)
    np.testing.assert_allclose(
        statistics.k_mean(), whole.mean(axis=(0, 2), dtype=np.float64), atol=1e-6
    )
    steps = statistics.scales()
    assert steps.key == pytest.approx((float(np.abs(whole).max()) / 127,))
    assert steps.value == pytest.approx(
        (max(float(np.abs(x["v"]).max()) for x in (values, other)) / 127,)
    )


def test_nothing_seen() -> None:
    assert SiteStatistics(GROUPED_SITE).k_mean() is None


def test_zeros_give_steps_that_can_be_divided_by() -> None:
    statistics = SiteStatistics(GROUPED_SITE)
    statistics.update({name: np.zeros_like(x) for name, x in run(0).items()}, "run 0")
    assert statistics.scales().query == (1.0,)


def test_the_smallest_numbers_give_steps_above_zero() -> None:
    statistics = SiteStatistics(GROUPED_SITE)
    statistics.update({name: np.full_like(x, 1e-44) for name, x in run(0).items()}, "run 0")
    for step in (statistics.scales().query, statistics.scales().key, statistics.scales().value):
        assert np.float32(step[0]) > 0


def test_no_keys_at_all() -> None:
    statistics = SiteStatistics(GROUPED_SITE)
    statistics.update(run(0, keys=0), "run 0")
    np.testing.assert_array_equal(statistics.k_mean(), np.zeros((2, 16)))
    assert statistics.scales().key == (1.0,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("letter", ["q", "k", "v"])
def test_what_is_not_finite_is_refused(letter: str, bad: float) -> None:
    values = run(0)
    values[letter][1, 1, 1, 3] = bad
    with pytest.raises(InvalidDataError, match=f"{letter.upper()} of attention 'attention'.*run 7"):
        SiteStatistics(GROUPED_SITE).update(values, "run 7")


def test_float16_sums_do_not_overflow() -> None:
    values = {name: np.full(x.shape, 60000, np.float16) for name, x in run(0, keys=50).items()}
    statistics = SiteStatistics(GROUPED_SITE)
    statistics.update(values, "run 0")
    np.testing.assert_allclose(statistics.k_mean(), 60000, rtol=1e-3)
