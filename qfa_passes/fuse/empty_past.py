"""Past keys and values of no length, for nodes without a past in a model whose other nodes have one."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from qfa_passes.core import opspec
from qfa_passes.core.printable import printable
from qfa_passes.errors import UnsupportedModelError
from qfa_passes.fuse.fused_nodes import FusedNode, shape_of


def write_empty_past(proto: ModelProto, entry: FusedNode) -> None:
    """Gives a node (B, Hkv, 0, channels) slices of its own keys and values as past, in place.

    They are slices, not constants, because B and the type are those of the model.

    Raises:
        UnsupportedModelError: It is not known how many axes the keys have.
    """
    node = entry.node
    needed = 1 + opspec.input_index("past_value")
    node.input.extend([""] * (needed - len(node.input)))
    for source, past in (("key", "past_key"), ("value", "past_value")):
        node.input[opspec.input_index(past)] = _empty(proto, entry, source)


def _empty(proto: ModelProto, entry: FusedNode, source: str) -> str:
    """Writes the slice of one operand in front of the node and returns its name."""
    given = entry.node.input[opspec.input_index(source)]
    shape = shape_of(entry, source)
    if shape is None or len(shape) not in (3, 4) or (len(shape) == 3 and not shape[2]):
        raise UnsupportedModelError(
            f"attention node '{printable(entry.node.name)}' cannot be given an empty past",
            why=f"other nodes have a past, and the shape of its {source} '{printable(given)}' is not known",
            hint="run shape inference on the model first, or exclude one kind of attention",
        )
    stem = f"{entry.node.output[0]}/no_{source}"
    nodes = [
        helper.make_node(
            "Slice",
            [given, _vector(proto, 0), _vector(proto, 0), _vector(proto, len(shape) - 2)],
            [stem],
            name=stem,
        )
    ]
    if len(shape) == 3:
        heads = next(item.i for item in entry.node.attribute if item.name == "kv_num_heads")
        split = _vector(proto, 0, 0, heads, shape[2] // heads)
        nodes += [
            helper.make_node("Reshape", [stem, split], [f"{stem}_split"], name=f"{stem}_split"),
            helper.make_node(
                "Transpose",
                [f"{stem}_split"],
                [f"{stem}_heads"],
                name=f"{stem}_heads",
                perm=[0, 2, 1, 3],
            ),
        ]
    _insert_before(entry, nodes)
    return nodes[-1].output[0]


def _vector(proto: ModelProto, *numbers: int) -> str:
    """The name of a constant at the top of the model, where nested bodies see it too."""
    name = f"{opspec.DOMAIN}/{'_'.join(map(str, numbers))}"
    if all(tensor.name != name for tensor in proto.graph.initializer):
        proto.graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
    return name


def _insert_before(entry: FusedNode, nodes: list[NodeProto]) -> None:
    place = next(
        index for index, node in enumerate(entry.graph.node) if node.output == entry.node.output
    )
    for offset, node in enumerate(nodes):
        entry.graph.node.insert(place + offset, node)
