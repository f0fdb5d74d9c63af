"""Options and artefacts where attention is in bodies: plans, formats, modes, files."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from qfa_passes import api
from qfa_passes.core.dataset import DataSet
from qfa_passes.errors import ConfigError
from qfa_passes.plan.plan_file import read_plan, write_plan
from tests.end_to_end.outcomes import assert_valid, float_outputs, outputs, statuses, worst
from tests.reference.decoders import Decoder
from tests.scopes.models import cached_loop, flagged, inner_nodes, merged, merged_decoder, prefixed


def words(model: onnx.ModelProto, name: str) -> set[bytes]:
    fused = [node for node in inner_nodes(model) if node.op_type == "QuantFlashAttention"]
    return {item.s for node in fused for item in node.attribute if item.name == name}


def test_plan_file_names_sites_by_their_path(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    write_plan(api.optimize(merged_decoder()).plan, path)
    text = path.read_text()
    assert 'name = "choice/then_branch/attention_1"' in text
    head, tail = text.split('name = "choice/then_branch/attention_1"')
    path.write_text(
        f'{head}name = "choice/then_branch/attention_1"{tail}'.replace(
            '"choice/then_branch/attention_1"\nformat = "int8"',
            '"choice/then_branch/attention_1"\nformat = "none"',
        )
    )
    result = api.optimize(merged_decoder(), plan=path)
    assert statuses(result) == ["fused", "fused", "exempt"]
    path.write_text(path.read_text().replace("then_branch/attention_1", "then_branch/attention_7"))
    with pytest.raises(ConfigError, match="attention_7"):
        api.optimize(merged_decoder(), plan=path)
    assert read_plan(path).sites


@pytest.mark.parametrize("flag", [True, False])
def test_float_format(flag: bool) -> None:
    model = merged_decoder()
    result = api.optimize(model, format="float")
    assert statuses(result) == ["fused"] * 3
    assert words(result.model, "compute_format") == {b"float"}
    wanted = float_outputs(model, flagged(flag))
    assert worst(outputs(result.model, flagged(flag)), wanted) < 1e-10
    assert worst(outputs(result.model, flagged(flag), library=False), wanted) < 1e-10


def test_static_steps_of_both_branches() -> None:
    data = DataSet((flagged(True), flagged(False)), "two inputs")
    result = api.optimize(merged_decoder(), scale_mode="static", calibration=data, max_error=2e-3)
    assert statuses(result) == ["fused"] * 3
    assert words(result.model, "scale_mode") == {b"static"}
    assert not [text for text in result.report.warnings if "verified on" in text]
    for flag in (True, False):
        wanted = float_outputs(merged_decoder(), flagged(flag))
        assert worst(outputs(result.model, flagged(flag)), wanted) < 2e-3


def test_only_runs_that_take_a_branch_calibrate_it() -> None:
    """The other run has larger values; its steps would be larger."""
    small = flagged(True)
    large = {**flagged(False), "x0": small["x0"] * 100}
    data = DataSet((large, small), "two inputs")
    both = api.optimize(merged_decoder(), scale_mode="static", calibration=data, max_error=1.0)
    one = api.optimize(
        merged_decoder(),
        scale_mode="static",
        calibration=DataSet((small,), "one input"),
        max_error=1.0,
    )
    name = "choice/then_branch/attention_0"
    first, second = (result.plan.site(name) for result in (both, one))
    assert first is not None
    assert second is not None
    assert first.scales == second.scales


@pytest.mark.parametrize("external", ["never", "always"])
def test_weights_are_written_once(external: str, tmp_path: Path) -> None:
    big = Decoder(heads=8, kv_heads=8, channels=32)
    model = merged(big.model(), Decoder(layers=1, heads=8, kv_heads=8, channels=32).model())
    source = tmp_path / "in.onnx"
    onnx.save(model, source)
    target = tmp_path / "out" / "out.onnx"
    target.parent.mkdir()
    result = api.optimize(source, output=target, external_data=external)
    assert statuses(result) == ["fused"] * 3
    written = sum(path.stat().st_size for path in target.parent.iterdir())
    assert written < source.stat().st_size + 60_000  # the function body and types
    saved = onnx.load(target)
    assert_valid(saved)
    feed = {**big.feeds(), "flag": np.array(True)}
    assert worst(outputs(saved, feed), float_outputs(model, feed)) < 1e-3


def test_one_function_body_has_the_neutral_inputs_outside() -> None:
    """Only one branch has a mask; the neutral one of the other is shared and belongs to the main graph."""
    data = DataSet((flagged(True), flagged(False)), "two inputs")
    model = api.optimize(merged_decoder(), calibration=data).model
    assert len(model.functions) == 1
    inside = [t.name for n in model.graph.node for a in n.attribute for t in a.g.initializer]
    assert not [name for name in inside if "neutral" in name]


def test_blocks_of_the_main_graph_and_of_bodies_share_a_rotation() -> None:
    model = merged_decoder()
    front = prefixed(Decoder(layers=1, kv_heads=4, causal=False).model(seed=7), "front/")
    model.graph.initializer.extend(front.graph.initializer)
    model.graph.node.extend(front.graph.node)
    model.graph.node.append(helper.make_node("Add", ["result", "front/y"], ["sum"]))
    model.graph.output[0].name = "sum"
    for rotate in ("hadamard", "none", "auto"):
        result = api.optimize(model, rotate=rotate)
        assert statuses(result) == ["fused"] * 4
        assert len(words(result.model, "rotate")) == 1
        wanted = float_outputs(model, flagged(True))
        assert worst(outputs(result.model, flagged(True)), wanted) < 5e-4


def test_other_channels_than_the_rotation_is_for() -> None:
    other = Decoder(heads=2, kv_heads=2, channels=32, layers=1)
    model = merged(Decoder().model(), prefixed(other.model(), "other/"))
    result = api.optimize(model, rotate="hadamard", max_error=1.0)
    fates = {entry.name: entry.reason for entry in result.report.sites if entry.status != "fused"}
    assert len(fates) == 2
    assert all("rotation" in reason for reason in fates.values())


@pytest.mark.parametrize("stop_after", ["normalize", "rewrite"])
def test_earlier_artefacts_of_a_loop(stop_after: str) -> None:
    model = cached_loop()
    result = api.optimize(model, stop_after=stop_after)
    assert_valid(result.model)
    feed = {"x0": np.random.default_rng(3).standard_normal((2, 1, 64)).astype(np.float32)}
    bound = 1e-12 if stop_after == "normalize" else 5e-3
    got = outputs(result.model, feed, library=False)
    assert worst(got, float_outputs(model, feed)) < bound
