"""A site that is not quantized must agree up to rounding, whatever a user allows."""

import math
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto

from qfa_passes.core.formats import AttentionFormat
from qfa_passes.core.plan import SitePlan
from qfa_passes.fuse.replay import replay_model
from qfa_passes.quant.attention import Masking, attention_float64
from qfa_passes.verify.sites import measure_site
from tests.reference.golden_graphs import GROUPED_SITE


@pytest.mark.parametrize(
    ("kind", "dtype", "limit"),
    [(TensorProto.FLOAT, np.float32, 1e-9), (TensorProto.FLOAT16, np.float16, 5e-5)],
)
def test_float_has_a_bound_of_its_own(kind: int, dtype: type, limit: float) -> None:
    rng = np.random.default_rng(0)
    values = {
        "q": rng.standard_normal((2, 4, 7, 16)).astype(dtype),
        "k": rng.standard_normal((2, 2, 70, 16)).astype(dtype),
        "v": rng.standard_normal((2, 70, 2, 8)).astype(dtype),
        "keep": rng.random((2, 1, 1, 70)) < 0.7,
    }
    exact = attention_float64(
        values["q"],
        values["k"],
        values["v"].transpose(0, 2, 1, 3),
        scale=0.25,
        masking=Masking(mask=values["keep"]),
    )
    site = replace(GROUPED_SITE, dtype=kind)
    for format, allowed in ((AttentionFormat.FLOAT, limit), (AttentionFormat.INT8, math.inf)):
        model = replay_model(site, SitePlan("attention", format=format), None, values, 17)
        good = measure_site(site, model, [values | {"o": exact.astype(dtype)}], library=True)
        assert good.limit == allowed
        assert good.within(5e-4)
        off = (exact * (1 + 10 * math.sqrt(limit))).astype(dtype)
        bad = measure_site(site, model, [values | {"o": off}], library=True)
        assert bad.within(1.0) == (format is AttentionFormat.INT8)
        assert bad.allowed(1e-12) == 1e-12
