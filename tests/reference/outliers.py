"""Attention that int8 cannot hold: one channel of Q and K is so large that codes keep little of the rest."""

from onnx import ModelProto, numpy_helper

from tests.reference.decoders import Decoder

_GAIN = 300.0
_CHANNEL = 3


def outlier_model(decoder: Decoder, *layers: int) -> ModelProto:
    """Returns the decoder with such attention in some layers; it computes what it did, for the gains cancel out."""
    model = decoder.model()
    gains = {f"wq{layer}": _GAIN for layer in layers} | {
        f"wk{layer}": 1 / _GAIN for layer in layers
    }
    for tensor in model.graph.initializer:
        if tensor.name in gains:
            matrix = numpy_helper.to_array(tensor).copy()
            matrix[:, _CHANNEL :: decoder.channels] *= gains[tensor.name]
            tensor.CopyFrom(numpy_helper.from_array(matrix, tensor.name))
    return model
