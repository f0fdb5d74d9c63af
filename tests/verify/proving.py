"""Proofs of hand-made sites."""

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import onnx
from onnx import ModelProto

from qfa_passes.core.model import LoadedModel, opset_of
from qfa_passes.core.outcome import Proof
from qfa_passes.core.site import AttentionSite
from qfa_passes.core.weights import WeightStore
from qfa_passes.fuse.replay import float_model
from qfa_passes.verify.proof import Prover


def prover(
    model: ModelProto, *, thorough: bool = False, seed: int = 0, library: bool = True
) -> Prover:
    """A prover of a model's sites."""
    typed = onnx.shape_inference.infer_shapes(model, data_prop=True)
    opset = opset_of(model)

    def replay(site: AttentionSite, examples: Mapping[str, npt.NDArray[Any]]) -> ModelProto:
        return float_model(site, examples, opset)

    loaded = LoadedModel(typed, WeightStore(), None, "")
    return Prover(loaded, replay, thorough=thorough, seed=seed, library=library)


def prove(model: ModelProto, site: AttentionSite, **options: bool) -> Proof:
    """The proof of one site."""
    return prover(model, **options)(site).proof
