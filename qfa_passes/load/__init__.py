"""Bounded, safe reading of models and data."""

from qfa_passes.load.data import Samples, read_samples
from qfa_passes.load.limits import Limits
from qfa_passes.load.model import read_model

__all__ = ["Limits", "Samples", "read_model", "read_samples"]
