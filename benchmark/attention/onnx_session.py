"""Small models in sessions of ONNX Runtime whose inputs and outputs are bound once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from qfa_passes.core import opspec
from qfa_passes.runtime.library import get_library_path

Array = npt.NDArray[Any]


class BoundSession:
    """One model, its inputs in place, its outputs where they are wanted."""

    def __init__(
        self,
        nodes: onnx.NodeProto | Sequence[onnx.NodeProto],
        feeds: Mapping[str, Array],
        outputs: Mapping[str, Array],
        threads: int,
        *,
        constants: Mapping[str, Array] | None = None,
        library: bool = False,
        opset: int = 23,
    ) -> None:
        """Makes the model and the session.

        Args:
            nodes: Of the graph.
            feeds: Inputs by name; the session reads this very memory.
            outputs: By name, where they go; the memory of an input for a buffer that is shared.
            threads: Of the session.
            constants: Initializers.
            library: Whether our operator takes part.
            opset: Of the standard operators.
        """
        nodes = [nodes] if isinstance(nodes, onnx.NodeProto) else list(nodes)
        graph = helper.make_graph(
            nodes,
            "benchmark",
            [_value_info(name, array) for name, array in feeds.items()],
            [_value_info(name, array) for name, array in outputs.items()],
            [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
        )
        domains = (("", opset), ("com.microsoft", 1), (opspec.DOMAIN, opspec.DOMAIN_VERSION))
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(domain, version) for domain, version in domains],
            ir_version=10,
        )
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        # Idle workers of one session would spin on the processors that the next one is measured on: they may while
        # it runs, not between two runs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if library:
            options.register_custom_ops_library(get_library_path())
        self._session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._binding = self._session.io_binding()
        self._kept = [*feeds.values(), *outputs.values()]
        for name, array in feeds.items():
            self._binding.bind_ortvalue_input(name, _ort_value(array))
        for name, array in outputs.items():
            self._binding.bind_ortvalue_output(name, _ort_value(array))

    def run(self) -> None:
        """Runs the model once."""
        self._session.run_with_iobinding(self._binding)


def merged(array: Array) -> Array:
    """(B, H, S, D) as (B, S, H * D)."""
    batch, heads, rows, channels = array.shape
    return np.ascontiguousarray(array.transpose(0, 2, 1, 3)).reshape(batch, rows, heads * channels)


def split_heads(heads: int) -> Callable[[Array], Array]:
    """What makes (B, S, H * D) into (B, H, S, D) again."""
    return lambda array: array.reshape(*array.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def _value_info(name: str, array: Array) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
    )


def _ort_value(array: Array) -> Any:
    """The array itself, not a copy; bfloat16 goes by the number of its type."""
    if array.dtype == ml_dtypes.bfloat16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(
            array.view(np.uint16), onnx.TensorProto.BFLOAT16
        )
    return ort.OrtValue.ortvalue_from_numpy(array)
