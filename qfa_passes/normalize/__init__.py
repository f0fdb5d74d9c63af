"""Making exporters look alike: the same mathematics in canonical form, bit for bit."""

from qfa_passes.normalize.pipeline import NORMALIZE, raise_opset

__all__ = ["NORMALIZE", "raise_opset"]
