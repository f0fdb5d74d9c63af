"""The passes of normalization, in order."""

from __future__ import annotations

from typing import Final

import onnx
from onnx import ModelProto, NodeProto

from qfa_passes.core.model import opset_of
from qfa_passes.errors import UnsupportedModelError
from qfa_passes.graph.attention_hints import every_node
from qfa_passes.graph.graph_pass import GraphPass
from qfa_passes.normalize.expand_fused import ExpandFused
from qfa_passes.normalize.expand_products import ExpandProducts
from qfa_passes.normalize.fold_quantized_scalars import FoldQuantizedScalars
from qfa_passes.normalize.fold_shapes import FoldShapes
from qfa_passes.normalize.infer_types import InferTypes
from qfa_passes.normalize.join_softmax import JoinSoftmax
from qfa_passes.normalize.lift_constants import LiftConstants
from qfa_passes.normalize.merge_casts import MergeCasts
from qfa_passes.normalize.move_floors import MoveFloors
from qfa_passes.normalize.move_scales import MoveScales
from qfa_passes.normalize.raise_shapes import RaiseShapes
from qfa_passes.normalize.remove_identity import RemoveIdentity
from qfa_passes.normalize.widen_masks import WidenMasks


def normalize_passes(keep: frozenset[str] = frozenset()) -> tuple[GraphPass, ...]:
    """The passes, in order; nodes whose names are in ``keep`` are not written out."""
    return (
        LiftConstants(),  # first: the others look at initializers only
        InferTypes(),  # before passes that ask for types
        MergeCasts(),  # leaves casts that do nothing
        RemoveIdentity(),  # before shape folding, so that it sees fewer nodes
        FoldQuantizedScalars(),
        JoinSoftmax(),  # before passes that look for a softmax
        ExpandFused(keep),  # before shape folding, which then sees its shape arithmetic too
        RaiseShapes(),  # before shape folding, which then sees fewer values
        ExpandProducts(keep),
        MoveScales(),  # after products are all MatMul
        MoveFloors(),
        WidenMasks(),
        FoldShapes(),  # last: needs the shapes of what remains
    )


NORMALIZE: Final[tuple[GraphPass, ...]] = normalize_passes()

OLDEST_OPSET: Final = 15
"""The function body and the canonical forms need the operators of ai.onnx 15 (CastLike, Shape with start and end)."""

TARGET_OPSET: Final = 17

_OF_RUNTIME: Final = ("SimplifiedLayerNormalization",)
"""In the standard domain of ONNX Runtime, but not of ONNX, whose converter knows no others."""

_ASIDE: Final = "qfa.aside"


def raise_opset(proto: ModelProto) -> ModelProto:
    """Converts a model older than ai.onnx 15 to 17; newer models are returned as they are.

    Raises:
        UnsupportedModelError: The converter of the onnx package cannot convert it.
    """
    version = opset_of(proto)
    if version >= OLDEST_OPSET:
        return proto
    try:
        return _converted(proto)
    except Exception as error:  # the converter raises RuntimeError and its own types
        raise UnsupportedModelError(
            f"the model uses ai.onnx opset {version} and could not be converted to {TARGET_OPSET}",
            why=str(error).splitlines()[0] if str(error) else type(error).__name__,
            hint=f"export it again with opset {TARGET_OPSET} or later",
        ) from error


def _converted(proto: ModelProto) -> ModelProto:
    """Converts a model; operators that ONNX Runtime keeps in the standard domain stay as they are."""
    aside = ModelProto()
    aside.CopyFrom(proto)
    found = [node for node in every_node(aside.graph.node) if _is_of_runtime(node)]
    if not found:
        return onnx.version_converter.convert_version(proto, TARGET_OPSET)
    for node in found:
        node.domain = _ASIDE
    aside.opset_import.append(onnx.helper.make_opsetid(_ASIDE, 1))
    raised = onnx.version_converter.convert_version(aside, TARGET_OPSET)
    for node in every_node(raised.graph.node):
        if node.domain == _ASIDE:
            node.domain = ""
    kept = [entry for entry in raised.opset_import if entry.domain != _ASIDE]
    del raised.opset_import[:]
    raised.opset_import.extend(kept)
    return raised


def _is_of_runtime(node: NodeProto) -> bool:
    return node.op_type in _OF_RUNTIME and node.domain in ("", "ai.onnx")
