"""What the tests of whole runs ask of a result."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto

from qfa_passes.api import Optimized
from qfa_passes.core import opspec
from tests.operator.sessions import LEVELS, open_session
from tests.reference.attention_cases import nmse

TINY_LM = Path(__file__).parents[2] / "models" / "tiny_lm" / "tiny_lm.onnx"
HELDOUT = TINY_LM.with_name("heldout.txt")

Array = npt.NDArray[Any]


def operators(model: ModelProto) -> list[str]:
    """Operators of the main graph, in order."""
    return [node.op_type for node in model.graph.node]


def statuses(result: Optimized) -> list[str]:
    """What became of each site."""
    return [site.status.value for site in result.report.sites]


def outputs(model: ModelProto, feeds: Mapping[str, Array], **session: Any) -> list[Array]:
    """Runs a model in ONNX Runtime."""
    values: list[Array] = open_session(model, **session).run(None, dict(feeds))
    return values


def float_outputs(model: ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """What the original computes, in ONNX Runtime without optimizations and without our library."""
    return outputs(model, feeds, library=False, level=LEVELS[0])


def worst(actual: list[Array], expected: list[Array]) -> float:
    """The largest normalized squared error over all outputs."""
    return max(nmse(got, wanted) for got, wanted in zip(actual, expected, strict=True))


def assert_valid(model: ModelProto) -> None:
    """The ONNX checker accepts the model, with every type and shape inferred."""
    onnx.checker.check_model(model, full_check=True)


def fused_count(model: ModelProto) -> int:
    """Number of our operators."""
    return operators(model).count(opspec.OP_TYPE)


def tokens(length: int, batch: int = 1) -> dict[str, Array]:
    """Windows of the held-out text for tiny_lm."""
    text = np.frombuffer(HELDOUT.read_bytes()[: batch * length], np.uint8)
    return {"input_ids": text.reshape(batch, length).astype(np.int64)}
