"""Checks the parts of a model against each other: versions, names, order, functions. Linear in its size."""

from onnx import ModelProto

from qfa_passes.load.limits import Limits


def check_structure(model: ModelProto, limits: Limits) -> None:
    """Placeholder until the checks land."""
