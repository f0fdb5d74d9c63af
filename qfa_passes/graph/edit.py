"""Rewiring: the few edits that passes are made of."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from qfa_passes.core.view import ViewOp, Views
from qfa_passes.graph.ir import Graph


def bypass(graph: Graph, node: gs.Node) -> bool:
    """Lets every consumer of a one-output node read its first input, the same numbers; the node becomes dead.

    Returns:
        False if the name of its output must stay: a graph output, or a value that a nested body reads.
    """
    source, output = node.inputs[0], node.outputs[0]
    if any(value is output for value in graph.gs.outputs) or graph.is_captured(output):
        return False
    graph.learn(source, output)
    replace_uses(output, source)
    node.outputs.clear()
    return True


def replace_uses(old: gs.Tensor, new: gs.Tensor) -> None:
    """Lets every consumer of ``old`` read ``new`` instead."""
    for consumer in list(old.outputs):
        for position, tensor in enumerate(consumer.inputs):
            if tensor is old:
                consumer.inputs[position] = new


def constant(graph: Graph, stem: str, value: npt.NDArray[np.generic]) -> gs.Constant:
    """Makes a new initializer."""
    return gs.Constant(graph.new_name(stem), value)


def emit(
    graph: Graph,
    op: str,
    inputs: list[gs.Tensor],
    stem: str,
    *,
    dtype: object = None,
    attrs: dict[str, object] | None = None,
    domain: str | None = None,
) -> gs.Variable:
    """Appends a node with one new output and returns the output."""
    output = gs.Variable(graph.new_name(f"{stem}_output"), dtype=dtype)
    node = gs.Node(op, graph.new_name(stem), attrs or {}, list(inputs), [output], domain=domain)
    graph.add(node)
    return output


def emit_views(graph: Graph, tensor: gs.Tensor, views: Views, stem: str) -> gs.Tensor:
    """Appends the nodes of some views and returns the last value; ``tensor`` itself without any."""
    for view in views:
        name = f"{stem}_{view.op.value.lower()}"
        numbers = np.array(view.numbers, dtype=np.int64)
        if view.op is ViewOp.TRANSPOSE:
            perm: dict[str, object] = {"perm": list(view.numbers)}
            tensor = emit(graph, view.op.value, [tensor], name, dtype=tensor.dtype, attrs=perm)
        elif view.op is ViewOp.CAST:
            to = _editing_type(view.numbers[0])
            tensor = emit(graph, view.op.value, [tensor], name, dtype=to, attrs={"to": to})
        else:
            inputs = [tensor, constant(graph, f"{name}_to", numbers)]
            tensor = emit(graph, view.op.value, inputs, name, dtype=tensor.dtype)
    return tensor


def _editing_type(code: int) -> object:
    """An ONNX type as the editing graph writes it: a numpy type, or the code of one that numpy lacks."""
    if code == onnx.TensorProto.BFLOAT16:
        return code
    return onnx.helper.tensor_dtype_to_np_dtype(code).type


def replace_producer(output: gs.Tensor, node: gs.Node) -> None:
    """Makes ``node`` the producer of an existing value; the old producer loses it."""
    output.inputs.clear()
    node.outputs.append(output)
