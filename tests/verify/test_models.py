"""Two whole models in ONNX Runtime, compared."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qfa_passes.core.comparison import Verdict
from qfa_passes.core.dataset import DataSet
from qfa_passes.core.model import LoadedModel
from qfa_passes.errors import RuntimeFailureError, VerificationError
from qfa_passes.load import read_model
from qfa_passes.verify.latency import time_in_turns
from qfa_passes.verify.models import CALIBRATION_KEY, model_facts, verify_models
from tests.verify.language_model import VOCABULARY, bigram_model


def loaded(**options: object) -> LoadedModel:
    return read_model(bigram_model(**options))


def tokens(blocks: int = 4, length: int = 20, **more: np.ndarray) -> DataSet:
    ids = np.random.default_rng(1).integers(0, VOCABULARY, (blocks, length))
    feeds = tuple(
        {"input_ids": row[None], **{name: array[n : n + 1] for name, array in more.items()}}
        for n, row in enumerate(ids)
    )
    return DataSet(feeds, "test", "digest")


def test_language_models_against_torch() -> None:
    torch = pytest.importorskip("torch")
    data = tokens()
    found = verify_models(loaded(), loaded(noise=0.1), data).language
    assert found is not None
    ids = np.concatenate([feed["input_ids"] for feed in data.feeds])
    losses = []
    for model in (bigram_model(), bigram_model(noise=0.1)):
        table = torch.from_numpy(
            onnx.numpy_helper.to_array(model.graph.initializer[0]).copy()
        ).double()
        logits = table[torch.from_numpy(ids[:, :-1])].reshape(-1, VOCABULARY)
        wanted = torch.from_numpy(ids[:, 1:]).reshape(-1)
        losses.append(torch.nn.functional.cross_entropy(logits, wanted).item())
    assert found.tokens == 4 * 19
    assert found.perplexity_a == pytest.approx(np.exp(losses[0]), rel=1e-6)
    assert found.perplexity_b == pytest.approx(np.exp(losses[1]), rel=1e-6)


def test_a_model_equals_itself() -> None:
    found = verify_models(loaded(), loaded(), tokens())
    assert found.guard.verdict is Verdict.PASS
    assert found.outputs["logits"].nmse == 0
    assert found.language is not None
    assert found.language.kld_max == 0
    assert (found.samples, found.data, found.latency) == (4, "test", None)


@pytest.mark.parametrize(
    ("noise", "verdict"), [(0.01, Verdict.PASS), (0.12, Verdict.WARN), (0.6, Verdict.FAIL)]
)
def test_the_guard_follows_the_disturbance(noise: float, verdict: Verdict) -> None:
    # Half the variance of the logits' error is their divergence: 5e-5, 7e-3, 0.2.
    found = verify_models(loaded(), loaded(noise=noise), tokens(blocks=200))
    assert found.guard.verdict is verdict


def test_padding_is_not_predicted() -> None:
    mask = np.ones((4, 20), np.int64)
    mask[:, :5] = 0
    mask[3] = 0
    data = tokens(attention_mask=mask)
    found = verify_models(loaded(mask=True), loaded(mask=True), data)
    assert found.language is not None
    assert found.language.tokens == 3 * 14


def test_other_outputs_are_no_predictions() -> None:
    hidden = verify_models(loaded(output="hidden"), loaded(output="hidden", noise=1.0), tokens())
    assert hidden.language is None
    assert hidden.guard.verdict is Verdict.FAIL


def test_random_inputs_are_no_predictions_and_are_labelled() -> None:
    data = DataSet(tokens().feeds, "seeded random inputs", seeded=True)
    found = verify_models(loaded(), loaded(noise=0.01), data)
    assert found.language is None
    assert "random" in found.data
    assert any("random inputs" in line for line in found.warnings)


def test_calibration_data_is_no_proof() -> None:
    calibrated = bigram_model()
    calibrated.metadata_props.add(key=CALIBRATION_KEY, value="digest")
    found = verify_models(loaded(), read_model(calibrated), tokens())
    assert any("calibration data" in line for line in found.warnings)


def test_nan_on_one_side_fails() -> None:
    broken = bigram_model(output="hidden")
    table = broken.graph.initializer[0]
    values = onnx.numpy_helper.to_array(table).copy()
    values[tokens().feeds[0]["input_ids"][0, 0]] = np.nan
    table.raw_data = values.tobytes()
    found = verify_models(loaded(output="hidden"), read_model(broken), tokens())
    assert found.guard.verdict is Verdict.FAIL
    assert found.outputs["hidden"].nonfinite > 0


def test_models_with_other_inputs_or_outputs() -> None:
    with pytest.raises(VerificationError, match="attention_mask"):
        verify_models(loaded(), loaded(mask=True), tokens())
    with pytest.raises(VerificationError, match="hidden"):
        verify_models(loaded(), loaded(output="hidden"), tokens())


def test_outputs_of_other_shapes() -> None:
    wide = bigram_model()
    wide.graph.node[0].output[0] = "narrow"
    wide.graph.node.append(helper.make_node("Concat", ["narrow", "narrow"], ["logits"], axis=2))
    wide.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 2 * VOCABULARY
    with pytest.raises(VerificationError, match="shapes differ"):
        verify_models(loaded(), read_model(wide), tokens())


def test_a_run_that_fails_names_model_and_sample() -> None:
    data = tokens()
    data.feeds[2]["input_ids"][0, 3] = VOCABULARY
    with pytest.raises(RuntimeFailureError) as caught:
        verify_models(loaded(), loaded(), data)
    assert "<ModelProto>" in caught.value.what
    assert "sample 2 (input_ids (1, 20))" in caught.value.what


def test_facts_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(bigram_model(), path)
    facts = model_facts(read_model(path))
    assert (facts.name, facts.file_bytes, facts.fused) == ("model.onnx", path.stat().st_size, 0)


def test_size_counts_external_data(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(
        bigram_model(), path, save_as_external_data=True, location="weights", size_threshold=0
    )
    total = path.stat().st_size + (tmp_path / "weights").stat().st_size
    assert model_facts(read_model(path)).file_bytes == total


def test_fused_nodes_are_counted() -> None:
    model = bigram_model()
    model.graph.node.append(
        helper.make_node("QuantFlashAttention", ["q", "k", "v"], ["o"], domain="ai.qfa")
    )
    model.graph.node.append(helper.make_node("QuantFlashAttention", ["q"], ["p"], domain="other"))
    model.opset_import.append(helper.make_opsetid("ai.qfa", 1))
    assert model_facts(LoadedModel(model, read_model(bigram_model()).weights, None, "")).fused == 1


def test_latency_takes_turns_and_reports_medians() -> None:
    calls: list[str] = []
    found = time_in_turns(lambda: calls.append("a"), lambda: calls.append("b"), 5, "x")
    assert "".join(calls) == "ab" * 6
    assert found.runs == 5
    assert found.seconds_a > 0
    assert found.seconds_b > 0


def test_progress_counts_samples() -> None:
    steps: list[tuple[str, int, int]] = []
    verify_models(loaded(), loaded(), tokens(), progress=lambda *step: steps.append(step))
    assert steps[-1] == ("compare", 4, 4)
    assert ("load", 2, 2) in steps


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_float_types(dtype: int) -> None:
    model = bigram_model()
    model.graph.node[0].output[0] = "single"
    model.graph.node.append(helper.make_node("Cast", ["single"], ["logits"], to=dtype))
    model.graph.output[0].type.tensor_type.elem_type = dtype
    found = verify_models(loaded(), read_model(model), tokens())
    assert found.language is not None
    assert found.language.kld_mean < 1e-5
