"""Error measures against plain numpy on whole arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qfa_passes.verify import metrics
from qfa_passes.verify.metrics import ErrorAccumulator, tensor_error

FINITE = st.floats(-1e6, 1e6, width=32)


@given(
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=8), elements=FINITE),
    st.integers(0, 2**32 - 1),
)
def test_equals_the_formulas_on_whole_arrays(reference: np.ndarray, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(size=reference.shape)
    actual = (reference + noise).astype(np.float32)
    a, b = reference.astype(np.float64).ravel(), actual.astype(np.float64).ravel()
    error = tensor_error(reference, actual)
    if (a * a).sum() > 0:
        assert error.nmse == pytest.approx(((a - b) ** 2).sum() / (a * a).sum(), rel=1e-9)
        cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
        assert error.cosine == pytest.approx(cosine, abs=1e-9)
    assert error.max_abs == pytest.approx(np.abs(a - b).max(), rel=1e-9)
    assert error.elements == a.size


def test_pieces_give_the_same_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    reference = generator.normal(size=1000)
    actual = reference + 0.1 * generator.normal(size=1000)
    whole = tensor_error(reference, actual)
    monkeypatch.setattr(metrics, "_CHUNK", 7)
    pieces = ErrorAccumulator()
    for start in range(0, 1000, 33):
        pieces.update(reference[start : start + 33], actual[start : start + 33])
    split = pieces.result()
    assert split.nmse == pytest.approx(whole.nmse, rel=1e-12)
    assert split.cosine == pytest.approx(whole.cosine, rel=1e-12)
    assert split.max_abs == whole.max_abs


def test_a_single_piece_survives_many_small_ones() -> None:
    # float32 sums would lose the small ones: 1e8 + 1 == 1e8.
    accumulator = ErrorAccumulator()
    accumulator.update(np.array([1e4], np.float32), np.array([0], np.float32))
    for _ in range(100):
        accumulator.update(np.array([1], np.float32), np.array([0], np.float32))
    assert accumulator.result().nmse == 1.0


def test_same_infinities_and_nans_agree() -> None:
    values = np.array([np.nan, np.inf, -np.inf, 2.0])
    error = tensor_error(values, values)
    assert (error.nmse, error.cosine, error.nonfinite) == (0.0, 1.0, 0)


@pytest.mark.parametrize(
    ("reference", "actual"),
    [(1.0, np.nan), (np.nan, 1.0), (np.inf, -np.inf), (np.inf, np.nan), (1.0, np.inf)],
)
def test_disagreement_on_what_is_finite_is_an_infinite_error(
    reference: float, actual: float
) -> None:
    error = tensor_error([1.0, reference], [1.0, actual])
    assert error.nmse == np.inf
    assert error.nonfinite == 1


def test_zero_reference() -> None:
    assert tensor_error([0.0, 0.0], [0.0, 0.0]).nmse == 0.0
    assert tensor_error([0.0, 0.0], [0.0, 1e-9]).nmse == np.inf


def test_empty_and_boolean_arrays() -> None:
    assert tensor_error(np.zeros((0, 3)), np.zeros((0, 3))).nmse == 0.0
    assert tensor_error([True, False], [True, True]).nmse == 1.0


def test_shapes_must_be_equal() -> None:
    with pytest.raises(ValueError, match=r"\(2,\) and \(1, 2\)"):
        tensor_error(np.zeros(2), np.zeros((1, 2)))
