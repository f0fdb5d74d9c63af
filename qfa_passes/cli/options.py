"""Options that several commands take, and what is done with them."""

from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="Say more; with errors, a traceback.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Tokenizer = Annotated[
    str | None,
    typer.Option(help="Of text: a tokenizer.json, or 'bytes'.", metavar="FILE"),
]
AllowLinks = Annotated[
    Path | None, typer.Option(help="Accept weights behind links if they lie there.", metavar="DIR")
]


def expanded(path: Path) -> Path:
    """Expands ``~``, which a shell leaves alone in ``--output=~/x``."""
    return path.expanduser() if str(path).startswith("~") else path


def expanded_or_none(path: Path | None) -> Path | None:
    """`expanded`, for an option that may be left out."""
    return None if path is None else expanded(path)


def configure_logging(verbose: int, quiet: bool) -> None:
    """Sets how much the libraries below may say."""
    import logging

    level = logging.ERROR if quiet else logging.WARNING
    if verbose:
        level = logging.INFO if verbose == 1 else logging.DEBUG
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s", force=True)


def print_json(document: dict[str, Any]) -> None:
    """Prints the result of a command for other programs."""
    from qfa_passes.report.json_text import to_json

    print(to_json(document))
