"""Sessions with and without the operator library, and one-node models to run in them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import FunctionProto, ModelProto, TensorProto, helper

from qfa_passes.core import opspec
from qfa_passes.runtime.library import get_library_path

Array = npt.NDArray[Any]

LEVELS = [
    ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
]
VALID = {
    "num_heads": 4,
    "kv_num_heads": 2,
    "scale": 0.25,
    "is_causal": 0,
    "compute_format": "int8",
    "scale_mode": "dynamic",
    "rotate": "none",
    "schema_version": opspec.SCHEMA_VERSION,
    "softcap": 0.0,
    "queries_at_end": 0,
    "left_window": -1,
    "right_window": -1,
    "kv_format": "float",
    "kv_granularity": "token",
    "group_size": 32,
    "kv_update": "concat",
}
"""Attributes that go with `qkv()`."""


def open_session(
    model: ModelProto, *, library: bool = True, level: Any = LEVELS[-1], threads: int = 1
) -> ort.InferenceSession:
    """Creates a session on the CPU, quietly."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.graph_optimization_level = level
    if library:
        options.register_custom_ops_library(get_library_path())
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(model: ModelProto, feeds: Mapping[str, Array], **session: Any) -> list[Array]:
    """Runs a model once."""
    results: list[Array] = open_session(model, **session).run(None, dict(feeds))
    return results


def one_node(
    inputs: Mapping[str, Array],
    attributes: Mapping[str, Any] | None = None,
    *,
    constant: Sequence[str] = (),
    name: str = "attention_7",
    functions: Sequence[FunctionProto] = (),
    outputs: Sequence[str] = ("output",),
    output_types: Mapping[str, Array] | None = None,
) -> ModelProto:
    """Returns a model of one operator whose inputs have open sizes.

    Args:
        inputs: Arrays by input name; only their types matter, but for those in ``constant``.
        attributes: All of them; None for `VALID`.
        constant: Inputs that become initializers.
        name: Of the node.
        functions: Model-local functions.
        outputs: Of the node, in the order of the schema, "" for one that is left out.
        output_types: Arrays of the types of outputs that have another than the query.
    """
    names = [spec.name if spec.name in inputs else "" for spec in opspec.INPUTS]
    while not names[-1]:
        names.pop()
    node = helper.make_node(
        opspec.OP_TYPE,
        names,
        outputs,
        name=name,
        domain=opspec.DOMAIN,
        **(VALID if attributes is None else attributes),
    )
    initializers = [
        helper.make_tensor(
            key,
            helper.np_dtype_to_tensor_dtype(inputs[key].dtype),
            inputs[key].shape,
            inputs[key].tobytes(),
            raw=True,
        )
        for key in constant
    ]
    graph = helper.make_graph(
        [node],
        "one_node",
        [_value(key, array) for key, array in inputs.items() if key not in constant],
        [_value(key, (output_types or {}).get(key, inputs["query"])) for key in outputs if key],
        initializers,
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(opspec.DOMAIN, 1)],
        functions=functions,
        ir_version=8,
    )


def qkv(
    batch: int = 1,
    queries: int = 5,
    keys: int = 7,
    channels: int = 16,
    *,
    heads: int = 4,
    kv_heads: int = 2,
    dtype: npt.DTypeLike = np.float32,
) -> dict[str, Array]:
    """Returns unit-normal query, key and value."""
    rng = np.random.default_rng(11)
    return {
        "query": rng.standard_normal((batch, heads, queries, channels)).astype(dtype),
        "key": rng.standard_normal((batch, kv_heads, keys, channels)).astype(dtype),
        "value": rng.standard_normal((batch, kv_heads, keys, channels)).astype(dtype),
    }


def _value(name: str, array: Array) -> Any:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    value.type.tensor_type.elem_type = kind
    return value
