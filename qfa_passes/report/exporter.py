"""Which program wrote a model, told from what it leaves in the file."""

from __future__ import annotations

from typing import Final

from onnx import ModelProto

from qfa_passes.core.printable import printable

_PRODUCERS: Final = {
    "onnxruntime.transformers": "ONNX Runtime transformer optimizer",
    "onnxruntime-genai": "onnxruntime-genai model builder",
    "onnx.quantize": "ONNX Runtime quantizer",
    "optimum-onnx": "optimum",
    "tf2onnx": "tf2onnx",
    "keras2onnx": "keras2onnx",
    "skl2onnx": "skl2onnx",
    "onnxscript": "onnxscript",
    "paddlepaddle": "Paddle2ONNX",
}
_PYTORCH: Final = "pytorch"
_DYNAMO_MARK: Final = "pkg.torch.onnx."
_CONTRIB: Final = "com.microsoft"


def exporter_family(proto: ModelProto) -> str:
    """Names the exporter, with its version where the model tells, e.g. ``torch.onnx dynamo (pytorch 2.9.1)``.

    Empty if the model does not say.
    """
    producer = printable(proto.producer_name)
    version = printable(proto.producer_version)
    told = f"{producer} {version}".strip()
    if producer.lower() == _PYTORCH:
        family = f"torch.onnx {'dynamo' if _is_dynamo(proto) else 'TorchScript'} ({told})"
    else:
        known = _PRODUCERS.get(producer.lower())
        family = f"{known} {version}".strip() if known else told
    contrib = any(entry.domain.startswith(_CONTRIB) for entry in proto.opset_import)
    if contrib and producer.lower() not in ("onnxruntime.transformers", "onnxruntime-genai"):
        family = ", with ".join(filter(None, (family, "operators of com.microsoft")))
    return family


def _is_dynamo(proto: ModelProto) -> bool:
    return any(
        entry.key.startswith(_DYNAMO_MARK)
        for node in proto.graph.node
        for entry in node.metadata_props
    )
