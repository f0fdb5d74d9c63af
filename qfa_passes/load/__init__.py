"""Bounded, safe reading of models and data."""

from qfa_passes.load.limits import Limits
from qfa_passes.load.model import read_model

__all__ = ["Limits", "read_model"]
