"""The command line that the builders share: which exporter, which attention, where to."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Protocol

from models.exporters import Exporter


class Build(Protocol):
    """The `export` function of a builder."""

    def __call__(self, folder: Path, exporter: Exporter, *, attention: str, tiny: bool) -> Path:
        """Write the model into the folder and return its path."""
        ...


def add_exporter_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--exporter``."""
    parser.add_argument(
        "--exporter",
        type=Exporter,
        choices=list(Exporter),
        default=Exporter.TORCHSCRIPT17,
        help="who writes the graph (default: %(default)s)",
    )


def build_from_command_line(program: str, description: str | None, build: Build) -> None:
    """Parse the command line, build, and print where the model lies."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    add_exporter_option(parser)
    parser.add_argument(
        "--attn",
        choices=("sdpa", "eager"),
        default="sdpa",
        help="how transformers writes attention (default: %(default)s)",
    )
    parser.add_argument(
        "--tiny", action="store_true", help="two layers with random weights, no download"
    )
    options = parser.parse_args()
    start = time.perf_counter()
    path = build(options.output, options.exporter, attention=options.attn, tiny=options.tiny)
    print(f"{path} ({time.perf_counter() - start:.0f} s)")
