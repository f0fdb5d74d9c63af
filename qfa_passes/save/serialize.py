"""Turns a shell and its weights into the serialized form of a model, piece by piece."""

from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.message import EncodeError, Message
from onnx import GraphProto, ModelProto, TensorProto

from qfa_passes.core.model import LoadedModel
from qfa_passes.core.walk import all_tensors
from qfa_passes.core.weights import WeightSource, WeightStore, is_hollow
from qfa_passes.core.wire_format import GRAPH_INITIALIZER, MODEL_GRAPH, TENSOR_RAW_DATA, field_head
from qfa_passes.errors import SaveError


@dataclass(frozen=True, slots=True)
class SerializedModel:
    """A model cut into literal bytes and places of weights; ``nbytes`` is the length of the whole."""

    parts: tuple[bytes | WeightSource, ...]
    nbytes: int

    def chunks(self, weights: WeightStore, size: int) -> Iterator[bytes | memoryview]:
        """Yields the bytes in order, never more than ``size`` of a tensor at once."""
        for part in self.parts:
            if isinstance(part, bytes):
                yield part
            else:
                yield from weights.chunks(part, size)


def serialize_inline(model: LoadedModel) -> SerializedModel:
    """Serializes a model with all its weights inside, without reading them.

    Field order differs from what protobuf itself writes, and readers may not depend on it: the graph comes after the
    other fields of the model, and the initializers after the other fields of the graph.
    """
    proto = materialize_nested(model)
    graph_head = GraphProto()
    graph_head.CopyFrom(proto.graph)
    del graph_head.initializer[:]
    parts: list[bytes | WeightSource] = []
    graph_parts: list[bytes | WeightSource] = [serialized(graph_head)]
    for tensor in proto.graph.initializer:
        if not is_hollow(tensor):
            body = serialized(tensor)
            graph_parts.append(field_head(GRAPH_INITIALIZER, len(body)) + body)
            continue
        place = model.weights.source(tensor)
        body = serialized(filled_tensor(tensor)) + field_head(TENSOR_RAW_DATA, place.nbytes)
        graph_parts.append(field_head(GRAPH_INITIALIZER, len(body) + place.nbytes) + body)
        graph_parts.append(place)
    model_head = copy_without_graph(proto)
    parts.append(serialized(model_head))
    parts.append(field_head(MODEL_GRAPH, _total(graph_parts)))
    parts.extend(graph_parts)
    return SerializedModel(tuple(parts), _total(parts))


def materialize_nested(model: LoadedModel) -> ModelProto:
    """Returns the shell with hollow tensors of node attributes and subgraphs filled; itself if there are none."""
    main = len(model.proto.graph.initializer)
    if not any(
        is_hollow(tensor)
        for index, (_, tensor) in enumerate(all_tensors(model.proto))
        if index >= main
    ):
        return model.proto
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    for index, (_, tensor) in enumerate(all_tensors(proto)):
        if index >= main and is_hollow(tensor):
            fill(tensor, model.weights)
    return proto


def fill(tensor: TensorProto, weights: WeightStore) -> None:
    """Puts the bytes of a hollow tensor into it."""
    raw = b"".join(weights.chunks(weights.source(tensor), 1 << 30))
    tensor.ClearField("data_location")
    del tensor.external_data[:]
    tensor.raw_data = raw


def filled_tensor(tensor: TensorProto) -> TensorProto:
    """Copies a hollow tensor without its reference to the store, ready for raw data to follow."""
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.ClearField("data_location")
    del copy.external_data[:]
    return copy


def copy_without_graph(proto: ModelProto) -> ModelProto:
    """Copies everything but the graph."""
    head = ModelProto()
    head.CopyFrom(proto)
    head.ClearField("graph")
    return head


def serialized(message: Message) -> bytes:
    """Serializes a message that must fit into memory."""
    try:
        return message.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise SaveError(
            "the model cannot be serialized",
            why=str(error),
            hint="a protobuf message holds at most 2 GiB; keep large tensors in initializers",
        ) from error


def _total(parts: list[bytes | WeightSource]) -> int:
    """Length of parts."""
    return sum(len(part) if isinstance(part, bytes) else part.nbytes for part in parts)
