"""The three ONNX exporters that the reference models are written with."""

from __future__ import annotations

import enum
import inspect
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# A protobuf message cannot pass 2 GiB; far below that a single file is the handier form. The dynamo
# exporter puts larger weights into `<name>.onnx.data`, which is also what its users have on disk.
_SINGLE_FILE_LIMIT = 128 << 20

# The dynamo exporter notes on every node which Python line it came from, with the absolute path.
_SOURCE_KEYS = ("pkg.torch.onnx.stack_trace", "pkg.onnxscript.source")


class Exporter(enum.StrEnum):
    """An exporter and its opset; each writes attention in a form of its own."""

    TORCHSCRIPT17 = "torchscript17"
    DYNAMO18 = "dynamo18"
    DYNAMO23 = "dynamo23"

    @property
    def opset(self) -> int:
        """Opset of the standard domain in the exported file."""
        return int(self.value[-2:])

    @property
    def is_dynamo(self) -> bool:
        """Whether `torch.export` traces the module, rather than the TorchScript tracer."""
        return self.value.startswith("dynamo")


Axes = Mapping[str, Mapping[int, str]]


def export_onnx(
    module: torch.nn.Module,
    inputs: Mapping[str, torch.Tensor],
    outputs: Sequence[str],
    axes: Axes,
    path: Path,
    exporter: Exporter,
) -> Path:
    """Export `module` and return the path of the ONNX file.

    Args:
        module: called with the inputs in their order; put into evaluation mode here.
        inputs: example inputs by the name that they get in the graph.
        outputs: names of the outputs in the graph.
        axes: dynamic axes by input or output name: axis -> symbolic dimension.
        path: the ONNX file to write; its folder is created.
        exporter: who writes it.
    """
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    module.eval()
    names: dict[str, Any] = {
        "input_names": list(inputs),
        "output_names": list(outputs),
        "opset_version": exporter.opset,
    }
    with warnings.catch_warnings():
        # Tracing a transformers model warns about every Python branch; the callers check numbers.
        warnings.simplefilter("ignore")
        with torch.no_grad():
            if exporter.is_dynamo:
                _export_dynamo(module, inputs, axes, path, names)
            else:
                torch.onnx.export(
                    module,
                    tuple(inputs.values()),
                    str(path),
                    dynamic_axes={name: dict(dims) for name, dims in axes.items()},
                    dynamo=False,
                    **names,
                )
    return path


def _export_dynamo(
    module: torch.nn.Module,
    inputs: Mapping[str, torch.Tensor],
    axes: Axes,
    path: Path,
    names: Mapping[str, Any],
) -> None:
    import torch

    shapes: tuple[Any, ...] = tuple(dict(axes.get(name, {})) for name in inputs)
    kinds = {parameter.kind for parameter in inspect.signature(module.forward).parameters.values()}
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        shapes = (shapes,)
    program = torch.onnx.export(
        module,
        tuple(inputs.values()),
        dynamic_shapes=shapes,
        dynamo=True,
        verbose=False,
        **names,
    )
    assert program is not None
    for node in program.model.graph.all_nodes():
        for key in _SOURCE_KEYS:
            node.metadata_props.pop(key, None)
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    # The exporter appends to a data file that is already there.
    path.with_name(path.name + ".data").unlink(missing_ok=True)
    program.save(str(path), external_data=size > _SINGLE_FILE_LIMIT)
