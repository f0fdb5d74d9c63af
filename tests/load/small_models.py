"""Models of a few kilobytes for the tests of reading and writing."""

from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

OPSET = 17


def model_of(graph: GraphProto, opset: int = OPSET) -> ModelProto:
    """Wraps a graph."""
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", opset)])


def two_layers(width: int = 32, seed: int = 0) -> ModelProto:
    """Builds x (N, width) -> MatMul w1 -> Add b1 -> MatMul w2 -> y; w1 and w2 are large, b1 is small."""
    draw = np.random.default_rng(seed)
    weights = {
        "w1": draw.standard_normal((width, width)).astype(np.float32),
        "b1": draw.standard_normal(width).astype(np.float32),
        "w2": draw.standard_normal((width, width)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h1"], "first"),
        helper.make_node("Add", ["h1", "b1"], ["h2"], "bias"),
        helper.make_node("MatMul", ["h2", "w2"], ["y"], "second"),
    ]
    return model_of(
        helper.make_graph(
            nodes,
            "two_layers",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", width])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", width])],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        )
    )


def chain(
    nodes: list[NodeProto], inputs: list[str], outputs: list[str], **extra: object
) -> ModelProto:
    """A model of float values from nodes."""
    return model_of(
        helper.make_graph(
            nodes,
            "chain",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in inputs],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in outputs],
            **extra,
        )
    )


def with_initializer(tensor: TensorProto) -> ModelProto:
    """A model that does nothing with one initializer."""
    return chain([helper.make_node("Identity", ["x"], ["y"])], ["x"], ["y"], initializer=[tensor])


def external_tensor(
    location: str, dims: tuple[int, ...] = (1024,), **entries: object
) -> TensorProto:
    """A float initializer ``w`` whose bytes are in a file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def write_external(
    folder: Path, location: str, data: bytes | None = None, **entries: object
) -> Path:
    """Writes model.onnx with one external tensor, and its data file unless ``data`` is None."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(with_initializer(external_tensor(location, **entries)).SerializeToString())
    if data is not None:
        (folder / location).parent.mkdir(parents=True, exist_ok=True)
        (folder / location).write_bytes(data)
    return path


def load_reference(path: Path) -> ModelProto:
    """What the onnx package reads from a file, all weights inside."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        tensor.ClearField("data_location")
        del tensor.external_data[:]
    return model
