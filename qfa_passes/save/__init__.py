"""Streaming, atomic, reproducible writing of models."""

from qfa_passes.save.model import ExternalData, SavedFiles, to_model_proto, write_model

__all__ = ["ExternalData", "SavedFiles", "to_model_proto", "write_model"]
