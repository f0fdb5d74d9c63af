"""The attention cases of the ONNX backend suite: models, data, and what becomes of them."""

from __future__ import annotations

import ctypes
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import ModelProto, TensorProto
from onnx.backend.test.case.node import collect_testcases

import qfa_passes
from qfa_passes.core import opspec
from qfa_passes.core.site import AttentionSite, Refusal
from tests.match.blocks import find

Array = npt.NDArray[Any]

PAGE = Path(__file__).parents[2] / "docs" / "backend-suite.md"
EXPANDED = "_expanded"
BFLOAT16_TOLERANCE = 2**-6
"""Two units in the last place, as the suite's own runner allows where the type is coarser than its tolerance."""


@dataclass(frozen=True)
class Case:
    """One model of the suite with its data and tolerance."""

    name: str
    model: ModelProto
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    rtol: float
    atol: float


@cache
def cases() -> dict[str, Case]:
    """All attention cases by name; the suite makes their data from a fixed seed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cases of other operators divide by zero
        found = collect_testcases("Attention")
    return {
        case.name: Case(
            case.name,
            case.model,
            tuple(case.data_sets[0][0]),
            tuple(case.data_sets[0][1]),
            case.rtol,
            case.atol,
        )
        for case in found
        if case.name.startswith("test_attention_")
    }


def listed() -> dict[str, str]:
    """What the page says of each model, by name; reading it is faster than making the suite's data."""
    rows = [
        [cell.strip(" `") for cell in line.split("|")[1:-1]]
        for line in PAGE.read_text().splitlines()
        if line.startswith("| `test_")
    ]
    forms = [((name, operator), (name + EXPANDED, expanded)) for name, operator, expanded in rows]
    return dict(form for both in forms for form in both)


@cache
def found(name: str) -> AttentionSite | Refusal:
    """What the matcher says of the one block of a case."""
    (record,) = find(cases()[name].model)
    return record


@cache
def optimized(name: str, format: str) -> ModelProto:
    """A case's model after all passes."""
    return qfa_passes.optimize(
        cases()[name].model, format=format, rotate="none", verify="off"
    ).model


def fused_nodes(model: ModelProto) -> int:
    """How many operators of ours a model has."""
    return sum(
        (node.domain, node.op_type) == (opspec.DOMAIN, opspec.OP_TYPE) for node in model.graph.node
    )


def run(case: Case, model: ModelProto, *, library: bool) -> list[Array]:
    """Runs a model made from a case on the case's inputs, with our kernels or on the function body."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    if library:
        options.register_custom_ops_library(qfa_passes.get_library_path())
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in case.model.graph.input]
    feeds = {name: _to_value(array) for name, array in zip(names, case.inputs, strict=True)}
    wanted = [value.name for value in case.model.graph.output]
    found = session.run_with_ort_values(wanted, feeds)
    return [_to_array(value) for value in found]


def _to_value(array: Array) -> ort.OrtValue:
    if array.dtype == ml_dtypes.bfloat16:
        bits = array.view(np.uint16)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, TensorProto.BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array)


def _to_array(value: ort.OrtValue) -> Array:
    if value.element_type() != TensorProto.BFLOAT16:
        return value.numpy()
    shape = value.shape()
    bits = (ctypes.c_uint16 * int(np.prod(shape))).from_address(value.data_ptr())
    return np.frombuffer(bits, ml_dtypes.bfloat16).reshape(shape).copy()


def check_float(case: Case, found: list[Array]) -> None:
    """Compares outputs with the suite's at the suite's tolerance."""
    for got, expected in zip(found, case.outputs, strict=True):
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        coarse = expected.dtype == ml_dtypes.bfloat16
        np.testing.assert_allclose(
            got.astype(np.float64),
            expected.astype(np.float64),
            rtol=max(case.rtol, BFLOAT16_TOLERANCE if coarse else 0),
            atol=case.atol,
        )


def error(case: Case, found: list[Array]) -> float:
    """The largest normalized mean squared error among the outputs."""
    errors = []
    for got, expected in zip(found, case.outputs, strict=True):
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        wide, wanted = got.astype(np.float64), expected.astype(np.float64)
        assert np.isfinite(wide).all()
        errors.append(float(((wide - wanted) ** 2).sum() / max((wanted**2).sum(), 1e-30)))
    return max(errors)
