"""A match that is wrong never reaches the model: its structure is disproven, the block stays as it was."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from qfa_passes import api, opened
from qfa_passes.core.outcome import Standing
from qfa_passes.core.passes import Contract
from qfa_passes.core.site import AttentionSite, Mask, Refusal
from qfa_passes.graph.ir import Graph
from qfa_passes.match import find_sites
from tests.end_to_end.outcomes import float_outputs, operators, outputs, statuses, worst
from tests.reference.decoders import Decoder

DECODER = Decoder(layers=3)
Fault = Callable[[AttentionSite], AttentionSite]

FAULTS: dict[str, Fault] = {
    "scale": lambda site: replace(site, scale=-site.scale),
    "swapped": lambda site: replace(site, key=site.value, value=site.key),
    "not causal": lambda site: replace(site, mask=replace(site.mask, causal=False, terms=())),
    "one key more": lambda site: replace(site, mask=Mask(right_window=1)),
}


def with_fault(monkeypatch: pytest.MonkeyPatch, fault: Fault, name: str = "attention_1") -> None:
    """The matcher says something wrong of one site."""

    def wrong(graph: Graph) -> list[AttentionSite | Refusal]:
        return [
            fault(entry) if isinstance(entry, AttentionSite) and entry.name == name else entry
            for entry in find_sites(graph)
        ]

    monkeypatch.setattr(opened, "find_sites", wrong)


@pytest.mark.parametrize("format", ["int8", "float"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_match_is_put_back(
    fault: str, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_fault(monkeypatch, FAULTS[fault])
    result = api.optimize(DECODER.model(), format=format, rotate="none")
    assert statuses(result) == ["fused", "restored", "fused"]
    site = result.report.sites[1]
    assert site.proof is not None and site.proof.standing is Standing.DISPROVEN
    assert site.reason == site.proof.reason
    assert operators(result.model).count("Softmax") == 1
    feed = DECODER.feeds()
    assert worst(outputs(result.model, feed), float_outputs(DECODER.model(), feed)) < 1e-3


def test_a_fault_too_small_for_int8_to_show_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with_fault(monkeypatch, lambda site: replace(site, scale=site.scale * 1.0005))
    result = api.optimize(DECODER.model(), rotate="none")
    assert statuses(result) == ["fused", "restored", "fused"]
    assert "in float it differs from the block that it replaces" in result.report.sites[1].reason


def test_a_plan_cannot_bring_a_disproven_site_back(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = api.optimize(DECODER.model(), rotate="none").plan
    with_fault(monkeypatch, FAULTS["swapped"])
    result = api.optimize(DECODER.model(), plan=plan)
    assert statuses(result) == ["fused", "restored", "fused"]


def test_without_verification_nothing_is_proven() -> None:
    report = api.optimize(DECODER.model(), verify="off").report
    assert [site.proof for site in report.sites] == [None] * 3
    assert "nothing was verified: verify is off" in report.warnings


def test_full_verification_tries_more() -> None:
    proofs = [
        site.proof
        for level in ("fast", "full")
        for site in api.optimize(DECODER.model(), verify=level, rotate="none").report.sites
    ]
    assert all(proof is not None and proof.standing is Standing.PROVEN for proof in proofs)
    runs = [proof.runs for proof in proofs if proof is not None]
    assert runs[3] > runs[0]
    assert all(proof is not None and proof.contract in Contract for proof in proofs)


def test_sites_of_a_model_that_cannot_be_run_are_measured_on_the_inputs_of_their_proofs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is known of inputs that are strings: no run, and yet both structure and quantization are checked."""
    import onnx

    model = DECODER.model()
    reader = onnx.helper.make_node("StringNormalizer", ["words"], ["normal"])
    model.graph.node.append(reader)
    model.graph.input.append(
        onnx.helper.make_tensor_value_info("words", onnx.TensorProto.STRING, ["n"])
    )
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("normal", onnx.TensorProto.STRING, ["m"])
    )
    result = api.optimize(model, rotate="none")
    assert statuses(result) == ["fused"] * 3
    for site in result.report.sites:
        assert site.proof is not None and site.proof.standing is Standing.PROVEN
        assert site.nmse is not None and 0 < site.nmse < 5e-4
    assert np.isfinite([site.nmse for site in result.report.sites]).all()
