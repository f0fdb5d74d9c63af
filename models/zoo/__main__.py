"""Exports the zoo.

    python -m models.zoo export DIR [--arch bert,t5] [--exporter ts17_eager,dyn18_sdpa] [--missing]

writes DIR/<arch>_<exporter>.onnx, DIR/<arch>_<exporter>.npz with inputs and torch's outputs, and a line of
DIR/zoo.jsonl for each. `python -m models.zoo list` names the architectures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from models.zoo.case import architectures
from models.zoo.export import WRITERS, export_one
from models.zoo.record import read_records


def main() -> None:
    """Parses the command line and exports, TorchScript first because it is quick."""
    parser = argparse.ArgumentParser(
        prog="python -m models.zoo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name the architectures and exporters")
    export = commands.add_parser("export", help="export into a folder")
    export.add_argument("folder", type=Path)
    export.add_argument("--arch", default=",".join(architectures()))
    export.add_argument("--exporter", default=",".join(WRITERS))
    export.add_argument("--missing", action="store_true", help="only what has no record yet")
    options = parser.parse_args()
    if options.command == "list":
        print("architectures:", ", ".join(architectures()))
        print("exporters:", ", ".join(WRITERS))
        return
    export_all(
        options.folder, options.arch.split(","), options.exporter.split(","), options.missing
    )


def export_all(folder: Path, archs: list[str], exporters: list[str], missing: bool) -> None:
    """Exports every architecture by every exporter that its library can serve."""
    import torch

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    done = read_records(folder) if missing else {}
    for exporter in exporters:
        writer = WRITERS[exporter]
        for name in archs:
            arch = architectures()[name]
            if writer.attention not in arch.attentions or f"{name}_{exporter}" in done:
                continue
            record = export_one(arch, writer, folder)
            state = f"FAILED {record.failure}" if record.failure else record.runtime
            print(
                f"{record.name:32} {record.blocks:3} blocks {record.seconds:6.1f} s  {state}",
                flush=True,
            )


if __name__ == "__main__":
    main()
