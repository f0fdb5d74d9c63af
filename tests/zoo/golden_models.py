"""Small copies of exports: the graph as it was written, its weights replaced by seeded ones of the same spread."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

FOLDER = Path(__file__).parent / "golden"
EXPECTED = FOLDER / "expected.json"

# What is smaller, or takes only a few values, may be a mask, a scale or a shape: it stays.
_FEW_ELEMENTS, _FEW_VALUES = 16, 8
_MARK = "seeded "


@dataclass(frozen=True, slots=True)
class Golden:
    """What is expected of one copy.

    Attributes:
        name: Of the file, without its ending.
        blocks: Attention blocks of the torch module.
        fused: How many of them are matched.
        refusals: Reasons for the rest.
        inputs: Shape and type of each input, and the values of those that are no floats.
    """

    name: str
    blocks: int
    fused: int
    refusals: tuple[str, ...]
    inputs: dict[str, dict[str, Any]]

    def model(self) -> onnx.ModelProto:
        """The copy with weights."""
        return with_weights(read_copy(self.name))

    def feeds(self) -> dict[str, npt.NDArray[Any]]:
        """Inputs that it runs on."""
        generator = np.random.default_rng(0)
        feeds = {}
        for name, entry in self.inputs.items():
            if "values" in entry:
                array = np.array(entry["values"], entry["type"]).reshape(entry["shape"])
            else:
                array = generator.standard_normal(entry["shape"]).astype(entry["type"])
            feeds[name] = array
        return feeds


def read_copy(name: str) -> onnx.ModelProto:
    """A copy as it lies in the folder; packed, for names that repeat in every node are most of it."""
    return onnx.load_from_string(gzip.decompress((FOLDER / f"{name}.onnx.gz").read_bytes()))


def read_goldens() -> list[Golden]:
    """All copies."""
    entries = json.loads(EXPECTED.read_text(encoding="utf-8"))
    return [Golden(**{**entry, "refusals": tuple(entry["refusals"])}) for entry in entries]


def write_goldens(goldens: list[Golden]) -> None:
    """Writes what is expected; one line a copy."""
    lines = ",\n".join(json.dumps(asdict(golden)) for golden in goldens)
    EXPECTED.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Empties large float tensors, writing their mean and spread down, and drops all texts."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ClearField("doc_string")
    copy.ClearField("metadata_props")
    for graph in _graphs(copy.graph):
        graph.ClearField("doc_string")
        graph.ClearField("metadata_props")
        for node in graph.node:
            node.ClearField("doc_string")
            node.ClearField("metadata_props")
        for info in (*graph.value_info, *graph.input, *graph.output):
            info.ClearField("metadata_props")
    for tensor in _tensors(copy):
        tensor.ClearField("doc_string")
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size <= _FEW_ELEMENTS or len(np.unique(values)) <= _FEW_VALUES:
            continue
        mark = f"{_MARK}{values.mean():.3g} {values.std():.3g}"
        kept = onnx.TensorProto(
            name=tensor.name, dims=tensor.dims, data_type=tensor.data_type, doc_string=mark
        )
        tensor.CopyFrom(kept)
    return copy


def with_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fills what `without_weights` emptied with normal numbers, seeded by their order."""
    for index, tensor in enumerate(_tensors(model)):
        if not tensor.doc_string.startswith(_MARK):
            continue
        mean, spread = map(float, tensor.doc_string.removeprefix(_MARK).split())
        seed = zlib.crc32(f"{index} {tensor.name}".encode())
        values = np.random.default_rng(seed).standard_normal(list(tensor.dims))
        tensor.raw_data = (mean + spread * values).astype(np.float32).tobytes()
        tensor.ClearField("doc_string")
    return model


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else []
            for branch in (*inner, *attribute.graphs):
                yield from _graphs(branch)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for graph in _graphs(model.graph):
        yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR:
                    yield attribute.t
