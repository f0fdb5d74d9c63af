"""A loaded model: a shell ModelProto and the store of its large tensors."""

from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from qfa_passes.core.weights import WeightStore


def opset_of(proto: ModelProto) -> int:
    """Version of the default operator set that a model imports; 0 if it imports none."""
    versions = (entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    return next(versions, 0)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What `load.read_model` returns and `save.write_model` takes.

    Attributes:
        proto: The shell (see core/weights.py). Stages that change it make their own copy first.
        weights: The bytes of its hollow initializers.
        path: The file it came from; None for a ModelProto or bytes.
        digest: SHA-256 of the shell and of the places' sizes; ties plan files to models.
    """

    proto: ModelProto
    weights: WeightStore
    path: Path | None
    digest: str

    def replace_proto(self, proto: ModelProto) -> "LoadedModel":
        """Returns the same weights under another shell."""
        return LoadedModel(proto, self.weights, self.path, self.digest)
