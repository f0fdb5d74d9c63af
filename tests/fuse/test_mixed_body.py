"""One body for nodes in int8 and nodes in float: it quantizes nothing, whatever the nodes in int8 bring along."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from qfa_passes.core import opspec
from qfa_passes.core.formats import Rotation
from qfa_passes.errors import UnsupportedModelError
from qfa_passes.fuse.attach_body import attach_body, holds_float, present_rotation
from qfa_passes.fuse.function_body import OPSETS
from tests.operator.sessions import run
from tests.reference.attention_cases import nmse
from tests.reference.attention_models import Site, build_model
from tests.reference.body_cases import (
    LEVELS,
    defined,
    exact,
    qkv,
    run_ort,
    run_reference,
    skip_if_unknown,
)

Array = npt.NDArray[Any]
FLOAT = {"compute_format": "float"}
HADAMARD = {"rotate": "hadamard"}
rng = np.random.default_rng(7)


def normal(*shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def steps(*numbers: float) -> Array:
    return np.array(numbers, np.float32)


STATIC = Site(
    qkv(2, 4, 2, 5, 33, 16, 8)
    | {
        "q_scale": steps(0.04, 0.05, 0.04, 0.04),
        "k_scale": steps(0.04),
        "v_scale": steps(0.05, 0.04),
    },
    0.25,
    attributes={"scale_mode": "static"},
)
ROTATED = Site(qkv(1, 4, 4, 7, 20, 24, 24), 0.2, True, HADAMARD)
SHIFTED = Site(qkv(1, 4, 2, 6, 70, 64, 16) | {"k_mean": normal(2, 64)}, 0.125, attributes=HADAMARD)
CAPPED = Site(qkv(1, 2, 1, 4, 9, 16, 8), 0.5, attributes={"softcap": 3.0, "left_window": 4})
PLAIN = Site(qkv(2, 4, 2, 5, 33, 16, 8, seed=1), 0.25, attributes=FLOAT)
SUNK = Site(qkv(1, 4, 2, 3, 9, 40, 8) | {"sink": normal(4)}, 0.3, True, FLOAT)
PAST = Site(
    qkv(1, 4, 2, 3, 9, 16, 8)
    | {
        "past_key": normal(1, 2, 5, 16),
        "past_value": normal(1, 2, 5, 8),
        "attn_mask": rng.random((3, 14)) < 0.7,
        "kv_length": np.array([11]),
    },
    0.25,
    attributes=FLOAT,
    presents=True,
    flat=True,
)
MODELS = {
    "static": [STATIC, PLAIN],
    "static behind float": [PLAIN, STATIC],
    "static and dynamic": [STATIC, CAPPED, PLAIN],
    "two rotations": [ROTATED, SHIFTED, CAPPED, PLAIN],
    "everything": [SUNK, STATIC, ROTATED, SHIFTED, CAPPED, PAST, PLAIN],
}
FORMS = pytest.mark.parametrize("sites", MODELS.values(), ids=MODELS)


def attended(sites: list[Site], results: list[Array]) -> list[Array]:
    """The outputs alone, in four axes."""
    places, found = iter(results), []
    for site in sites:
        output, *_ = [next(places) for _ in site.outputs(0)]
        shape = site.inputs["query"].shape
        if site.flat:
            output = output.reshape(*(shape[axis] for axis in (0, 2, 1)), -1).transpose(0, 2, 1, 3)
        found.append(output)
    return found


def check_body(sites: list[Site], results: list[Array]) -> None:
    for site, output in zip(sites, attended(sites, results), strict=True):
        assert nmse(output, exact(site)) < 1e-9


@FORMS
def test_kernels_compute_each_in_its_format(sites: list[Site]) -> None:
    for site, output in zip(sites, attended(sites, run(*build_model(sites, 18))), strict=True):
        assert nmse(output, defined(site)) < (
            1e-9 if site.attributes.get("compute_format") else 1e-5
        )
        assert nmse(output, exact(site)) < 5e-4


@FORMS
@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_the_body_is_in_float(sites: list[Site], level: Any) -> None:
    model, feeds = build_model(sites, 18)
    onnx.checker.check_model(model, full_check=True)
    written = {node.op_type for node in model.functions[0].node}
    assert not written & {"Round", "Abs"}
    check_body(sites, run_ort(model, feeds, level))


@FORMS
def test_the_reference_runs_it(sites: list[Site]) -> None:
    check_body(sites, run_reference(*build_model(sites, 18)))


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset(opset: int) -> None:
    skip_if_unknown(opset)
    sites = MODELS["everything"]
    check_body(sites, run_ort(*build_model(sites, opset)))


@FORMS
def test_attaching_again_changes_nothing(sites: list[Site]) -> None:
    model, _ = build_model(sites, 18)
    once = model.SerializeToString(deterministic=True)
    attach_body(model, None)
    assert model.SerializeToString(deterministic=True) == once


def test_nodes_in_float_get_no_steps_and_no_shift() -> None:
    model, _ = build_model([STATIC, SHIFTED, PLAIN], 18)
    plain = model.graph.node[2]
    for name in ("q_scale", "k_scale", "v_scale", "k_mean"):
        assert not plain.input[opspec.input_index(name)]
        assert name in model.functions[0].input, "nodes may not give more than there is"
    assert not model.graph.initializer


def test_the_last_node_in_float_binds_again() -> None:
    """Without it the body quantizes, and what it cannot serve together is refused."""
    model, _ = build_model([ROTATED, CAPPED, PLAIN], 18)
    assert holds_float(model)
    assert present_rotation(model) is None
    del model.graph.node[2], model.graph.output[2]
    assert not holds_float(model)
    assert present_rotation(model) is Rotation.HADAMARD
    with pytest.raises(UnsupportedModelError, match="scale_mode and rotate must agree"):
        attach_body(model, None)
