"""Sites that must stay in float do, in the saved model and in the report."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qfa_passes import api, opened
from qfa_passes.core.site import AttentionSite, Refusal
from qfa_passes.errors import NothingMatchedError, UsageError
from qfa_passes.graph.ir import Graph
from tests.end_to_end.outcomes import (
    float_outputs,
    fused_count,
    operators,
    outputs,
    statuses,
    worst,
)
from tests.reference.decoders import Decoder
from tests.reference.outliers import outlier_model

DECODER = Decoder(layers=3)


def test_every_site_out_of_bound_is_restored(tmp_path: Path) -> None:
    model = DECODER.model()
    result = api.optimize(model, max_error=1e-20, output=tmp_path / "out.onnx")
    assert statuses(result) == ["restored"] * 3
    for site in result.report.sites:
        assert site.bound == 1e-20
        assert site.nmse is not None and 1e-20 < site.nmse < 1e-9, "that of the last attempt"
        assert site.reason.startswith("int8 NMSE ")
        assert "above the bound 1.00e-20, and in float NMSE " in site.reason
    saved = onnx.load(tmp_path / "out.onnx")
    assert operators(saved).count("Softmax") == 3
    assert not {"QuantFlashAttention", "QuantizeLinear"} & set(operators(saved))
    assert len(saved.functions) == 0
    feed = DECODER.feeds()
    assert worst(outputs(saved, feed, library=False), float_outputs(model, feed)) < 1e-9


def test_one_bad_site_gets_no_pairs_and_the_others_do(tmp_path: Path) -> None:
    model = outlier_model(DECODER, 1)
    result = api.optimize(model, rotate="none", stop_after="rewrite", output=tmp_path / "out.onnx")
    saved = onnx.load(tmp_path / "out.onnx")
    names = [node.name for node in saved.graph.node]
    assert [site.status.value for site in result.report.sites][1] == "restored"
    assert "attention_1" in names, "the softmax of the restored site is there"
    assert not [name for name in names if name.startswith("attention_1/")]
    assert [name for name in names if name.endswith("q_quantize")] == [
        "attention_0/q_quantize",
        "attention_2/q_quantize",
    ]
    onnx.checker.check_model(saved, full_check=True)
    feed = DECODER.feeds()
    assert worst(outputs(saved, feed, library=False), float_outputs(model, feed)) < 5e-3


def test_measured_error_is_that_of_the_site() -> None:
    """The report's figure agrees with one made by hand: fuse one site alone and look at its output."""
    decoder = Decoder(layers=1)
    model = decoder.model()
    model.graph.output.append(onnx.ValueInfoProto(name="o0"))
    result = api.optimize(model, rotate="none", seed=3)
    from qfa_passes.verify.seeded import seeded_data

    errors, signal = 0.0, 0.0
    for feed in seeded_data(decoder.model(), seed=3, samples=2).feeds:
        wanted = float_outputs(model, feed)[1].astype(np.float64)
        got = outputs(result.model, feed)[1]
        errors += float(np.sum((got - wanted) ** 2))
        signal += float(np.sum(wanted**2))
    assert result.report.sites[0].nmse == pytest.approx(errors / signal, rel=1e-3)


@pytest.mark.parametrize(
    ("exclude", "wanted"),
    [
        ("attention_[02]", ["exempt", "fused", "exempt"]),
        (["_0$", "_1$"], ["exempt", "exempt", "fused"]),
        (["nothing"], ["fused", "fused", "fused"]),
        ("", ["exempt", "exempt", "exempt"]),
    ],
)
def test_excluded_sites_stay_in_float(exclude: str | list[str], wanted: list[str]) -> None:
    result = api.optimize(DECODER.model(), exclude=exclude)
    assert statuses(result) == wanted
    assert fused_count(result.model) == wanted.count("fused")
    assert operators(result.model).count("Softmax") == wanted.count("exempt")
    for site in result.report.sites:
        assert site.reason == ("excluded by name" if site.status == "exempt" else "")


def test_exclude_that_is_no_regular_expression() -> None:
    with pytest.raises(UsageError, match=r"exclude pattern '\('"):
        api.optimize(DECODER.model(), exclude="(")


def test_attention_none_leaves_everything_in_float() -> None:
    model = DECODER.model()
    result = api.optimize(model, attention="none")
    assert statuses(result) == ["exempt"] * 3
    assert {site.reason for site in result.report.sites} == {"attention format is none"}
    feed = DECODER.feeds()
    assert worst(outputs(result.model, feed, library=False), float_outputs(model, feed)) < 1e-9


@pytest.mark.parametrize(
    "options",
    [{"attention": "none"}, {"exclude": "attention"}, {"max_error": 0.0}],
    ids=["attention none", "all excluded", "all restored"],
)
def test_require_match_fails_when_nothing_is_fused(options: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    with pytest.raises(NothingMatchedError) as caught:
        api.optimize(DECODER.model(), require_match=True, output=target, **options)
    assert caught.value.exit_code == 3
    assert not target.exists()
    report = caught.value.report
    assert report is not None
    assert len(report.sites) == 3
    assert report.sites[0].reason in str(caught.value)


@pytest.mark.parametrize("stop_after", ["normalize", "rewrite", "fuse"])
def test_require_match_is_content_with_what_was_asked_for(stop_after: str) -> None:
    api.optimize(DECODER.model(), require_match=True, stop_after=stop_after)


def test_site_that_is_not_found_again_stays_in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Q/DQ pair may stay where nothing is fused; the report tells."""
    original = opened.find_sites

    def forgetful(graph: Graph) -> list[AttentionSite | Refusal]:
        return [
            site
            for site in original(graph)
            if not (
                isinstance(site, AttentionSite) and site.quantized and site.name == "attention_1"
            )
        ]

    monkeypatch.setattr(opened, "find_sites", forgetful)
    model = DECODER.model()
    result = api.optimize(model)
    assert statuses(result) == ["fused", "exempt", "fused"]
    assert "not recognised" in result.report.sites[1].reason
    assert operators(result.model).count("Softmax") == 1
    assert "QuantizeLinear" not in operators(result.model)
    feed = DECODER.feeds()
    assert worst(outputs(result.model, feed), float_outputs(model, feed)) < 5e-4


def test_site_without_a_number_to_compare_stays_in_float() -> None:
    """Rows that see no key are NaN in the float model; nothing can be said of such a site."""
    decoder = Decoder(layers=1)
    model = decoder.model()
    for tensor in model.graph.initializer:
        if tensor.name == "nothing":
            tensor.CopyFrom(numpy_helper.from_array(np.array(-np.inf, np.float32), "nothing"))
    result = api.optimize(model)
    assert statuses(result) == ["restored"]
    assert "no finite row" in result.report.sites[0].reason
    assert fused_count(result.model) == 0
