"""How far a tensor is from its reference, gathered piece by piece in float64."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from qfa_passes.core.comparison import TensorError

_CHUNK = 1 << 18
"""Elements handled at a time: a few megabytes of float64, whatever the size of the tensor."""


@dataclass(slots=True)
class ErrorAccumulator:
    """Sums that `TensorError` needs; feed it any number of pieces."""

    _error: float = 0.0
    _reference: float = 0.0
    _actual: float = 0.0
    _product: float = 0.0
    _largest: float = 0.0
    _elements: int = 0
    _nonfinite: int = field(default=0)

    def update(self, reference: npt.ArrayLike, actual: npt.ArrayLike) -> None:
        """Adds one piece; both arrays have the same shape (any).

        Raises:
            ValueError: The shapes differ.
        """
        wanted, got = np.asarray(reference), np.asarray(actual)
        if wanted.shape != got.shape:
            raise ValueError(f"shapes differ: {wanted.shape} and {got.shape}")
        wanted, got = wanted.reshape(-1), got.reshape(-1)
        for start in range(0, wanted.size, _CHUNK):
            piece = slice(start, start + _CHUNK)
            self._add(wanted[piece].astype(np.float64), got[piece].astype(np.float64))

    def _add(self, wanted: npt.NDArray[np.float64], got: npt.NDArray[np.float64]) -> None:
        self._elements += wanted.size
        finite = np.isfinite(wanted) & np.isfinite(got)
        if not finite.all():
            # The same infinity, or NaN on both sides, is agreement and has no distance.
            odd_wanted, odd_got = wanted[~finite], got[~finite]
            same = (odd_wanted == odd_got) | (np.isnan(odd_wanted) & np.isnan(odd_got))
            self._nonfinite += int(np.count_nonzero(~same))
            wanted, got = wanted[finite], got[finite]
        if wanted.size == 0:
            return
        difference = got - wanted
        self._error += float(difference @ difference)
        self._reference += float(wanted @ wanted)
        self._actual += float(got @ got)
        self._product += float(wanted @ got)
        self._largest = max(self._largest, float(np.abs(difference).max()))

    def result(self) -> TensorError:
        """Returns the measures of everything added so far."""
        if self._nonfinite:
            return TensorError(np.inf, 0.0, np.inf, self._elements, self._nonfinite)
        return TensorError(self._nmse(), self._cosine(), self._largest, self._elements)

    def _nmse(self) -> float:
        if self._reference > 0:
            return self._error / self._reference
        return 0.0 if self._error == 0 else np.inf

    def _cosine(self) -> float:
        norms = float(np.sqrt(self._reference) * np.sqrt(self._actual))
        if norms > 0:
            return self._product / norms
        return 1.0 if self._reference == self._actual else 0.0


def tensor_error(reference: npt.ArrayLike, actual: npt.ArrayLike) -> TensorError:
    """Returns the measures of one pair of arrays of the same shape (any)."""
    accumulator = ErrorAccumulator()
    accumulator.update(reference, actual)
    return accumulator.result()
