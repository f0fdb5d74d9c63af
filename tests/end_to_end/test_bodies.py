"""Operator and function body, site by site, on the activations of the trained model."""

import numpy as np
import pytest

from qfa_passes import pipeline
from qfa_passes.calibrate import SiteStatistics, capture
from qfa_passes.core.formats import Rotation, ScaleMode
from qfa_passes.core.plan import SitePlan
from qfa_passes.core.site import AttentionSite
from qfa_passes.core.view import apply_views
from qfa_passes.fuse.replay import replay_model, site_values
from qfa_passes.load import read_model
from qfa_passes.quant.attention import Masking, attention_float64
from tests.end_to_end.outcomes import TINY_LM, tokens
from tests.operator.sessions import run
from tests.reference.attention_cases import nmse


@pytest.mark.parametrize(
    ("mode", "rotation"),
    [
        (ScaleMode.DYNAMIC, Rotation.NONE),
        (ScaleMode.DYNAMIC, Rotation.HADAMARD),
        (ScaleMode.STATIC, Rotation.NONE),  # static steps are those of the unrotated Q and K
    ],
)
@pytest.mark.parametrize("shifted", [False, True])
def test_operator_and_body_agree_on_real_activations(
    rotation: Rotation, shifted: bool, mode: ScaleMode
) -> None:
    normal = pipeline.normalize(read_model(TINY_LM))
    sites = [site for site in pipeline.match(normal) if isinstance(site, AttentionSite)]
    assert len(sites) == 4
    names = [name for site in sites for name in (*site_values(site), site.output)]
    (values,) = capture(normal, names, [tokens(300)])
    for site in sites:
        statistics = SiteStatistics(site)
        statistics.update(values, "the run")
        scales = statistics.scales() if mode is ScaleMode.STATIC else None
        plan = SitePlan(site.name, scale_mode=mode, rotation=rotation, scales=scales)
        shift = statistics.k_mean() if shifted else None
        given = {name: values[name] for name in site_values(site)}
        replay = replay_model(site, plan, shift, given, 18)
        kernel, body = (run(replay, given, library=library)[0] for library in (True, False))
        assert nmse(body, kernel) < 1e-4
        assert nmse(kernel, values[site.output]) < (5e-4 if mode is ScaleMode.DYNAMIC else 5e-3)


def test_captured_output_is_attention_of_the_captured_operands() -> None:
    """Scale, mask and layout of a site are what the exporter meant: float64 attention gives the float output."""
    normal = pipeline.normalize(read_model(TINY_LM))
    sites = [site for site in pipeline.match(normal) if isinstance(site, AttentionSite)]
    names = [name for site in sites for name in (*site_values(site), site.output)]
    (values,) = capture(normal, names, [tokens(70, batch=2)])
    for site in sites:
        query, key, value = (
            apply_views(values[operand.tensor], operand.views)
            for operand in (site.query, site.key, site.value)
        )
        assert site.mask.causal and not site.mask.terms
        wanted = attention_float64(
            query, key, value, scale=site.scale, masking=Masking(causal=True)
        )
        np.testing.assert_allclose(values[site.output], wanted, atol=1e-4)
