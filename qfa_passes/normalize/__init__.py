"""Making exporters look alike: the same mathematics in canonical form, bit for bit."""

from qfa_passes.normalize.pipeline import NORMALIZE, normalize_passes, raise_opset

__all__ = ["NORMALIZE", "normalize_passes", "raise_opset"]
