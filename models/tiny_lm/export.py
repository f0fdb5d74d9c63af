"""Export the trained tiny language model.

    python -m models.tiny_lm.export --exporter torchscript17 -o FILE

Input input_ids (B, S) int64, the bytes of the text; output logits (B, S, 256). The model's metadata
names the tokenizer: `qfa.tokenizer` is `bytes`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from models.commandline import add_exporter_option
from models.exporters import Exporter, export_onnx

if TYPE_CHECKING:
    from models.tiny_lm.model import TinyLM

WEIGHTS = Path(__file__).parent / "tiny_lm.safetensors"
_AXES = {name: {0: "batch", 1: "sequence"} for name in ("input_ids", "logits")}


def load_module(weights: Path = WEIGHTS) -> TinyLM:
    """Build the module with the trained weights."""
    from safetensors.torch import load_model

    from models.tiny_lm.model import TinyLM

    model = TinyLM()
    load_model(model, str(weights))
    return model.eval()


def export(
    path: Path, exporter: Exporter = Exporter.TORCHSCRIPT17, *, weights: Path = WEIGHTS
) -> Path:
    """Write the ONNX file and return its path."""
    import onnx
    import torch

    ids = torch.arange(32, 32 + 2 * 16).reshape(2, 16)
    module = load_module(weights)
    export_onnx(module, {"input_ids": ids}, ["logits"], _AXES, path, exporter)
    model = onnx.load(path)
    entry = model.metadata_props.add()
    entry.key, entry.value = "qfa.tokenizer", "bytes"
    onnx.save(model, path)
    return path


def main() -> None:
    """Export from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m models.tiny_lm.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    add_exporter_option(parser)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, metavar="FILE")
    options = parser.parse_args()
    print(export(options.output, options.exporter, weights=options.weights))


if __name__ == "__main__":
    main()
