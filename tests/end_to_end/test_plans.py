"""A plan that was written, edited and given back is obeyed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper

from qfa_passes import api
from qfa_passes.core import opspec
from qfa_passes.core.dataset import DataSet
from qfa_passes.core.formats import Rotation, ScaleMode
from qfa_passes.core.plan import Plan, StaticScales
from qfa_passes.errors import ConfigError
from qfa_passes.plan.plan_file import write_plan
from tests.end_to_end.outcomes import statuses
from tests.reference.decoders import Decoder

DECODER = Decoder()


@pytest.fixture(scope="module")
def model() -> ModelProto:
    return DECODER.model()


@pytest.fixture(scope="module")
def plan(model: ModelProto) -> Plan:
    return api.optimize(model, rotate="none").plan


def written(plan: Plan, folder: Path) -> Path:
    path = folder / "plan.toml"
    write_plan(plan, path)
    return path


def fused(model: ModelProto) -> dict[str, NodeProto]:
    return {n.name.split("/")[0]: n for n in model.graph.node if n.op_type == opspec.OP_TYPE}


def attributes(node: NodeProto) -> dict[str, object]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def constant_input(model: ModelProto, node: NodeProto, name: str) -> np.ndarray:
    wanted = node.input[opspec.input_index(name)]
    found = [tensor for tensor in model.graph.initializer if tensor.name == wanted]
    return numpy_helper.to_array(found[0])


def test_a_plan_given_back_unchanged_gives_the_same_model(
    model: ModelProto, plan: Plan, tmp_path: Path
) -> None:
    again = api.optimize(model, plan=written(plan, tmp_path))
    assert again.plan == plan
    assert statuses(again) == ["fused", "fused"]
    first = api.optimize(model, rotate="none").model
    assert again.model.SerializeToString(deterministic=True) == first.SerializeToString(
        deterministic=True
    )


def test_a_plan_object_is_obeyed_like_its_file(
    model: ModelProto, plan: Plan, tmp_path: Path
) -> None:
    by_file = api.optimize(model, plan=written(plan, tmp_path))
    by_object = api.optimize(model, plan=plan)
    assert by_object.plan == by_file.plan
    assert by_object.model.SerializeToString(deterministic=True) == by_file.model.SerializeToString(
        deterministic=True
    )
    with pytest.raises(ConfigError, match="the given plan was made for another model"):
        api.optimize(Decoder(heads=2).model(), plan=plan)


def test_a_site_set_to_none_stays_in_float(model: ModelProto, plan: Plan, tmp_path: Path) -> None:
    path = written(plan, tmp_path)
    lines = path.read_text().replace('format = "int8"', 'format = "none"', 1)
    path.write_text(lines)
    result = api.optimize(model, plan=path)
    assert statuses(result) == ["exempt", "fused"]
    assert result.report.sites[0].reason == "format none in the plan file"
    assert list(fused(result.model)) == ["attention_1"]


def test_rotation_of_the_plan_is_obeyed(model: ModelProto, plan: Plan, tmp_path: Path) -> None:
    path = written(plan, tmp_path)
    path.write_text(path.read_text().replace('rotate = "none"', 'rotate = "hadamard"'))
    result = api.optimize(model, plan=path)
    assert statuses(result) == ["fused", "fused"]
    assert {attributes(node)["rotate"] for node in fused(result.model).values()} == {b"hadamard"}


def test_sites_that_the_plan_does_not_name_follow_the_others(
    model: ModelProto, plan: Plan, tmp_path: Path
) -> None:
    only = replace(plan, sites=(replace(plan.sites[1], rotation=Rotation.HADAMARD),))
    result = api.optimize(model, plan=written(only, tmp_path))
    assert statuses(result) == ["fused", "fused"]
    assert {attributes(node)["rotate"] for node in fused(result.model).values()} == {b"hadamard"}


def test_exclude_goes_over_the_plan(model: ModelProto, plan: Plan, tmp_path: Path) -> None:
    result = api.optimize(model, plan=written(plan, tmp_path), exclude="attention_0")
    assert statuses(result) == ["exempt", "fused"]
    assert list(fused(result.model)) == ["attention_1"]
    api.optimize(model, plan=written(result.plan, tmp_path))  # names each site once


def test_restored_sites_stay_in_float_when_the_plan_comes_back(
    model: ModelProto, tmp_path: Path
) -> None:
    first = api.optimize(model, max_error=0.0)
    assert statuses(first) == ["restored", "restored"]
    again = api.optimize(model, plan=written(first.plan, tmp_path))
    assert statuses(again) == ["exempt", "exempt"]


def test_shift_of_keys_travels_with_the_plan(tmp_path: Path) -> None:
    """Keys with a large common part: calibration finds it, and the operator subtracts it."""
    decoder = Decoder(gain=1.0)
    model = decoder.model()
    offset = np.random.default_rng(3).standard_normal((2, 16)).astype(np.float32) * 6
    for layer in range(decoder.layers):
        model.graph.initializer.append(numpy_helper.from_array(offset.reshape(-1), f"bk{layer}"))
        reshape = next(n for n in model.graph.node if n.output[0] == f"k{layer}_split")
        position = list(model.graph.node).index(reshape)
        biased = helper.make_node("Add", [reshape.input[0], f"bk{layer}"], [f"k{layer}_biased"])
        model.graph.node.insert(position, biased)
        reshape.input[0] = f"k{layer}_biased"
    data = DataSet((decoder.feeds(), decoder.feeds(2, 30, seed=9)), "two inputs")
    plain = api.optimize(model, rotate="none", max_error=1.0)
    first = api.optimize(model, rotate="none", calibration=data, max_error=1.0)
    assert first.report.sites[0].nmse < 0.5 * plain.report.sites[0].nmse
    for node in fused(first.model).values():
        shift = constant_input(first.model, node, "k_mean")
        np.testing.assert_allclose(shift, offset, atol=1.5)
    again = api.optimize(model, plan=written(first.plan, tmp_path))
    for name, node in fused(again.model).items():
        np.testing.assert_array_equal(
            constant_input(again.model, node, "k_mean"),
            constant_input(first.model, fused(first.model)[name], "k_mean"),
        )


def static_plan(plan: Plan, scales: StaticScales) -> Plan:
    sites = (replace(s, scale_mode=ScaleMode.STATIC, scales=scales) for s in plan.sites)
    return replace(plan, sites=tuple(sites))


def test_steps_of_the_plan_reach_the_operator(
    model: ModelProto, plan: Plan, tmp_path: Path
) -> None:
    """Also one per head, which the Q/DQ graph cannot hold: it has one step for all."""
    scales = StaticScales((0.1, 0.11, 0.12, 0.13), (0.12,), (0.03, 0.04))
    path = written(static_plan(plan, scales), tmp_path)
    result = api.optimize(model, plan=path, max_error=1.0)
    assert statuses(result) == ["fused", "fused"]
    for node in fused(result.model).values():
        assert attributes(node)["scale_mode"] == b"static"
        for name, steps in (
            ("q_scale", scales.query),
            ("k_scale", scales.key),
            ("v_scale", scales.value),
        ):
            found = constant_input(result.model, node, name)
            np.testing.assert_array_equal(found.reshape(-1), np.array(steps, np.float32))
    marked = api.optimize(model, plan=path, max_error=1.0, stop_after="rewrite").model
    found = {t.name: numpy_helper.to_array(t) for t in marked.graph.initializer}
    assert found["attention_0/q_scale"] == np.float32(0.13)


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        (
            StaticScales((0.1,) * 3, (0.1,), (0.1,)),
            "3 query scales to site 'attention_0': it has 4",
        ),
        (StaticScales((0.1,), (0.1,) * 4, (0.1,)), "4 key scales to site 'attention_0': it has 2"),
        (StaticScales((0.1,), (0.1,), (0.1,) * 3), "3 value scales"),
    ],
)
def test_steps_for_another_number_of_heads_are_refused(
    model: ModelProto, plan: Plan, scales: StaticScales, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        api.optimize(model, plan=written(static_plan(plan, scales), tmp_path))


def test_a_shift_for_another_number_of_heads_is_refused(
    model: ModelProto, plan: Plan, tmp_path: Path
) -> None:
    sites = tuple(replace(site, k_mean="shift") for site in plan.sites)
    wrong = replace(plan, sites=sites, tensors={"shift": np.zeros((4, 16), np.float32)})
    with pytest.raises(ConfigError, match=r"shape \(4, 16\): its keys have 2 heads of 16 channels"):
        api.optimize(model, plan=written(wrong, tmp_path))


def test_a_plan_of_another_model_is_refused(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="another model"):
        api.optimize(Decoder(heads=2).model(), plan=written(plan, tmp_path))
