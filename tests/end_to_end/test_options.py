"""Options of optimize: rotation, scale mode, verification, calibration data, what is refused."""

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper

from qfa_passes import api
from qfa_passes.core.dataset import DataSet
from qfa_passes.errors import (
    InvalidDataError,
    QfaError,
    RuntimeFailureError,
    UnsupportedModelError,
    UsageError,
)
from tests.end_to_end.outcomes import (
    HELDOUT,
    TINY_LM,
    float_outputs,
    fused_count,
    operators,
    outputs,
    statuses,
    tokens,
    worst,
)
from tests.reference.decoders import Decoder

DECODER = Decoder()


def node_words(model: ModelProto, name: str) -> set[str]:
    """Values of a string attribute over the fused nodes."""
    return {
        helper.get_attribute_value(item).decode()
        for node in model.graph.node
        if node.op_type == "QuantFlashAttention"
        for item in node.attribute
        if item.name == name
    }


@pytest.mark.parametrize("rotate", ["none", "hadamard"])
def test_rotation_is_as_asked(rotate: str) -> None:
    model = DECODER.model()
    result = api.optimize(model, rotate=rotate)
    assert statuses(result) == ["fused", "fused"]
    assert node_words(result.model, "rotate") == {rotate}
    feed = DECODER.feeds()
    with_library = outputs(result.model, feed)
    assert worst(with_library, float_outputs(model, feed)) < 5e-4
    assert worst(outputs(result.model, feed, library=False), with_library) < 1e-4


def test_auto_rotates_where_it_pays() -> None:
    """One channel of Q and K far above the rest costs the others their codes, unless it is spread."""
    plain = DECODER.model()
    spiked = DECODER.model()
    for tensor in spiked.graph.initializer:
        if tensor.name[:2] in ("wq", "wk"):
            matrix = np.frombuffer(tensor.raw_data, np.float32).reshape(tensor.dims).copy()
            matrix[:, 5 :: DECODER.channels] *= 5
            tensor.raw_data = matrix.tobytes()
    assert node_words(api.optimize(plain).model, "rotate") == {"none"}
    chosen = api.optimize(spiked, max_error=1.0)
    assert node_words(chosen.model, "rotate") == {"hadamard"}
    fixed = api.optimize(spiked, max_error=1.0, rotate="none")
    assert chosen.report.sites[0].nmse < fixed.report.sites[0].nmse


def test_rotation_of_a_channel_count_that_has_none() -> None:
    assert node_words(api.optimize(Decoder(channels=12).model()).model, "rotate") == {"none"}
    with pytest.raises(UnsupportedModelError, match="12 channels"):
        api.optimize(Decoder(channels=12).model(), rotate="hadamard")


def test_static_steps_are_those_of_calibration() -> None:
    model = DECODER.model()
    data = DataSet((DECODER.feeds(), DECODER.feeds(2, 20, seed=5)), "two inputs")
    result = api.optimize(model, scale_mode="static", calibration=data, max_error=2e-3)
    assert statuses(result) == ["fused", "fused"]
    assert node_words(result.model, "scale_mode") == {"static"}
    assert not [text for text in result.report.warnings if "random" in text]
    model.graph.output.extend([helper.make_empty_tensor_value_info(x) for x in ("q0", "k0", "v0")])
    peaks = np.zeros(3)
    for feed in data.feeds:
        peaks = np.maximum(peaks, [np.abs(x).max() for x in float_outputs(model, feed)[1:]])
    scales = result.plan.sites[0].scales
    assert scales is not None
    np.testing.assert_allclose(
        [scales.query, scales.key, scales.value], peaks[:, None] / 127, rtol=1e-5
    )
    feed = DECODER.feeds()
    with_library = outputs(result.model, feed)
    assert worst(outputs(result.model, feed, library=False), with_library) < 1e-4


def test_static_steps_without_calibration_are_warned_of() -> None:
    result = api.optimize(DECODER.model(), scale_mode="static", max_error=2e-3)
    assert "static steps come from random inputs" in " ".join(result.report.warnings)


def test_static_steps_do_not_fit_a_rotation() -> None:
    with pytest.raises(UsageError, match="not rotated"):
        api.optimize(DECODER.model(), scale_mode="static", rotate="hadamard")


def test_model_that_no_inputs_can_be_made_up_for() -> None:
    """Its blocks are verified alone."""
    model = DECODER.model()
    model.graph.input.append(helper.make_tensor_value_info("word", 8, ["batch"]))  # a string
    result = api.optimize(model)
    assert statuses(result) == ["fused", "fused"]
    assert all(site.nmse is not None for site in result.report.sites)
    assert result.report.model_nmse == {}
    assert "the model was not run" in " ".join(result.report.warnings)


def test_verify_off_runs_nothing() -> None:
    """Not even for inputs that nothing plausible can be made up for."""
    model = DECODER.model()
    model.graph.input.append(helper.make_tensor_value_info("word", 8, ["batch"]))  # a string
    result = api.optimize(model, verify="off")
    assert statuses(result) == ["fused", "fused"]
    assert [site.nmse for site in result.report.sites] == [None, None]
    assert result.report.model_nmse == {}
    feed = DECODER.feeds()
    feed["word"] = np.array(["x"])
    assert worst(outputs(result.model, feed), float_outputs(model, feed)) < 5e-4


@pytest.mark.parametrize("stop_after", ["normalize", "rewrite", "fuse"])
def test_verify_full_passes(stop_after: str) -> None:
    result = api.optimize(DECODER.model(), verify="full", stop_after=stop_after)
    assert set(result.report.model_nmse) == (set() if stop_after == "normalize" else {"y"})
    assert (result.report.comparison is None) == (stop_after == "normalize")


def test_verify_full_compares_predictions(tmp_path: Path) -> None:
    text = tmp_path / "some.txt"
    text.write_bytes(HELDOUT.read_bytes()[:1200])
    comparison = api.optimize(TINY_LM, calibration=text, verify="full").report.comparison
    assert comparison is not None
    assert comparison.guard.verdict == "pass"
    assert comparison.language is not None
    assert comparison.language.kld_mean < 1.5e-3
    assert abs(comparison.language.change) < 3e-3


def test_calibration_from_arrays(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x0=DECODER.feeds(5, 24)["x0"])
    result = api.optimize(DECODER.model(), calibration=path)
    assert statuses(result) == ["fused", "fused"]
    assert "data.npz" in result.report.data
    assert not result.report.warnings
    assert [entry.key for entry in result.model.metadata_props] == ["qfa.calibration_digest"]


def test_calibration_from_text(tmp_path: Path) -> None:
    text = tmp_path / "some.txt"
    text.write_bytes(HELDOUT.read_bytes()[:1200])
    result = api.optimize(TINY_LM, calibration=text)
    assert statuses(result) == ["fused"] * 4
    assert "some.txt" in result.report.data
    feed = tokens(100)
    import onnx

    assert worst(outputs(result.model, feed), float_outputs(onnx.load(TINY_LM), feed)) < 1e-4


def test_without_calibration_the_report_says_so() -> None:
    report = api.optimize(DECODER.model()).report
    assert "seeded random inputs" in report.data
    assert "no calibration data" in report.warnings[0]


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    result = api.optimize(DECODER.model(), output=tmp_path / "out.onnx", dry_run=True)
    assert fused_count(result.model) == 2
    assert list(tmp_path.iterdir()) == []


def test_progress_names_the_stages_in_order() -> None:
    seen: list[str] = []
    api.optimize(DECODER.model(), progress=lambda stage, done, total: seen.append(stage))
    stages = list(dict.fromkeys(seen))
    assert [stage for stage in stages if not stage.endswith(" sites")] == [
        "normalize",
        "match",
        "calibrate",
        "prove",
        "plan",
        "rewrite",
        "fuse",
        "verify",
    ]


def test_inspect_finds_the_sites_and_changes_nothing() -> None:
    model = DECODER.model()
    before = model.SerializeToString(deterministic=True)
    assert [site.name for site in api.inspect(model)] == ["attention_0", "attention_1"]
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "int9"}, "format is 'int9'"),
        ({"attention": "int9"}, "attention is 'int9'"),
        ({"rotate": "left"}, "rotate is 'left'"),
        ({"scale_mode": "x"}, "scale_mode is 'x'"),
        ({"stop_after": "x"}, "stop_after is 'x'"),
        ({"verify": "x"}, "verify is 'x'"),
        ({"external_data": "x"}, "external_data is 'x'"),
        ({"max_error": -1.0}, "max_error is -1"),
        ({"max_error": float("nan")}, "max_error is nan"),
        ({"seed": -1}, "seed is -1"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        api.optimize(DECODER.model(), **options)


@pytest.mark.parametrize(
    ("feeds", "kind", "message"),
    [
        ((), InvalidDataError, "holds no sample"),
        (
            ({"x0": np.zeros((1, 3, 5), np.float32)},),
            RuntimeFailureError,
            r"failed on run 0 \(x0 \(1, 3, 5\)\)",
        ),
        (
            ({"x0": np.full((1, 3, 64), np.nan, np.float32)},),
            InvalidDataError,
            "Q of attention 'attention_0' is not finite in run 0",
        ),
    ],
    ids=["no sample", "wrong shape", "not a number"],
)
def test_unusable_calibration_data(
    feeds: tuple[dict[str, np.ndarray], ...], kind: type[QfaError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        api.optimize(DECODER.model(), calibration=DataSet(feeds, "given"))
    assert caught.value.report is not None


def test_normalized_artefact_is_plain() -> None:
    result = api.optimize(DECODER.model(), stop_after="normalize")
    assert operators(result.model).count("Softmax") == 2
    assert {site.reason for site in result.report.sites} == {"stopped after normalize"}


def test_without_the_library_the_body_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QFA_LIBRARY", str(tmp_path / "nothing.so"))
    result = api.optimize(DECODER.model())
    assert statuses(result) == ["fused", "fused"]
    assert result.report.sites[0].nmse is not None
    warnings = " ".join(result.report.warnings)
    assert "without the operator library: QFA_LIBRARY is" in warnings
