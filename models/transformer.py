"""What the builders of the two real models share: the tiny variants' weights, and the export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from models.exporters import Exporter, export_onnx

if TYPE_CHECKING:
    import torch


class Load(Protocol):
    """The `load_module` function of a builder."""

    def __call__(self, *, attention: str, tiny: bool) -> torch.nn.Module:
        """Build the float32 module."""
        ...


def sharpen(model: torch.nn.Module, *weights: str) -> None:
    """Scale up the weights whose names end so: the projections to queries and keys.

    The default initialisation leaves the scores so small that softmax is all but uniform: an error in attention would
    not show.
    """
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(weights):
                parameter.mul_(12.0)


@dataclass(frozen=True, slots=True)
class Transformer:
    """A model that is exported over token ids (B, S).

    Attributes:
        load_module: Builds the module.
        inputs: Makes its example inputs, by name, from ids.
        output: Name of its output.
        write_tokenizer: Writes tokenizer.json into a folder.
        prepare: What the module needs for an exporter.
    """

    load_module: Load
    inputs: Callable[[torch.Tensor], dict[str, torch.Tensor]]
    output: str
    write_tokenizer: Callable[[Path], None]
    prepare: Callable[[torch.nn.Module, Exporter], None] | None = None

    def export(
        self,
        folder: Path,
        exporter: Exporter = Exporter.TORCHSCRIPT17,
        *,
        attention: str = "sdpa",
        tiny: bool = False,
        module: torch.nn.Module | None = None,
    ) -> Path:
        """Write folder/model.onnx (and tokenizer.json) and return the path of the model.

        Args:
            folder: output folder.
            exporter: who writes the graph.
            attention: "sdpa" or "eager".
            tiny: two random layers in place of the real model; no download, no tokenizer.
            module: what `load_module` returned, to save building it twice.
        """
        import torch

        module = module or self.load_module(attention=attention, tiny=tiny)
        inputs = self.inputs(torch.arange(3, 3 + 2 * 16).reshape(2, 16))
        axes = {name: {0: "batch", 1: "sequence"} for name in (*inputs, self.output)}
        if self.prepare is not None:
            self.prepare(module, exporter)
        path = export_onnx(module, inputs, [self.output], axes, folder / "model.onnx", exporter)
        if not tiny:
            self.write_tokenizer(folder)
        return path
