"""Why the normalizer sums weights before rounding, measured against the other way."""

import numpy as np

from qfa_passes.quant.attention import attention_int8
from tests.reference.attention_cases import nmse
from tests.reference.normalizer import both_normalizers, cases


def test_unrounded_normalizer_is_as_good_in_the_worst_case() -> None:
    errors = []
    for case in cases():
        exact = case.exact()
        errors.append([nmse(output, exact) for output in both_normalizers(case)])
    unrounded, rounded = np.array(errors).T
    assert unrounded.max() < 4e-3
    assert rounded.max() > 0.1, (
        "tiny V scales no longer blow up the rounded normalizer: choose again"
    )


def test_the_operator_uses_the_unrounded_normalizer() -> None:
    for case in cases():
        unrounded, rounded = both_normalizers(case)
        arrays = (x[None, None].astype(np.float32) for x in (case.query, case.key, case.value))
        operator = attention_int8(*arrays, scale=1.0)[0, 0]
        assert nmse(operator, unrounded) < 1e-4, case.name
        assert nmse(operator, unrounded) <= nmse(operator, rounded), case.name
