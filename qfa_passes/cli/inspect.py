"""``qfa inspect``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qfa_passes.cli.options import (
    AllowLinks,
    Json,
    Quiet,
    Verbose,
    configure_logging,
    expanded,
    expanded_or_none,
    print_json,
)

if TYPE_CHECKING:
    from qfa_passes.inspection import Answer, Inspection


def inspect(
    model: Annotated[Path, typer.Argument(help="The .onnx file.")],
    why_not: Annotated[
        str | None,
        typer.Option(help="Explain what became of a node or value.", metavar="NODE"),
    ] = None,
    allow_links_within: AllowLinks = None,
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Show what attention is in a model, and why some was not matched."""
    from qfa_passes import api
    from qfa_passes.report.console import message, print_rows, stdout_console
    from qfa_passes.report.inspection_tables import explanation, matched_table

    configure_logging(verbose, quiet)
    found = api.inspection(expanded(model), allow_links_within=expanded_or_none(allow_links_within))
    answer = None if why_not is None else found.about(why_not)
    if json:
        print_json(_document(model, found, answer))
    elif answer is not None:
        lines = explanation(answer.entry, answer.asked, answer.steps)
        stdout_console().print(message("\n".join(lines)))
    elif not quiet:
        print_rows(
            *matched_table(
                found.found, exporter=found.exporter, fused=found.fused, plain=found.in_float
            )
        )


def _document(model: Path, found: "Inspection", answer: "Answer | None") -> dict[str, Any]:
    """The result as JSON values; with an answer, only what it is about."""
    from qfa_passes.core.site import AttentionSite
    from qfa_passes.report.json_text import plain

    entries = found.found if answer is None else (answer.entry,)
    document: dict[str, Any] = {
        "schema_version": 1,
        "model": str(model),
        "exporter": found.exporter,
        "fused": found.fused,
        "fused_float": found.in_float,
        "sites": [plain(entry) for entry in entries if isinstance(entry, AttentionSite)],
        "refusals": [plain(entry) for entry in entries if not isinstance(entry, AttentionSite)],
        "error": None,
    }
    if answer is not None:
        document |= {"asked": answer.asked, "steps": answer.steps}
    return document
