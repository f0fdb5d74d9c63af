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
from qfa_passes.errors import UsageError

if TYPE_CHECKING:
    from qfa_passes.core.site import AttentionSite, Refusal


def inspect(
    model: Annotated[Path, typer.Argument(help="The .onnx file.")],
    why_not: Annotated[
        str | None, typer.Option(help="Explain what became of one node.", metavar="NODE")
    ] = None,
    allow_links_within: AllowLinks = None,
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Show what attention is in a model, and why some was not matched."""
    from qfa_passes import api
    from qfa_passes.report.console import message, stdout_console
    from qfa_passes.report.site_tables import explanation, matched_table

    configure_logging(verbose, quiet)
    allowed = expanded_or_none(allow_links_within)
    found = list(api.inspect(expanded(model), allow_links_within=allowed))
    if why_not is not None:
        found = _about(found, why_not)
    if json:
        print_json(_inspection(model, found))
    elif why_not is not None:
        for entry in found:
            stdout_console().print(message("\n".join(explanation(entry))))
    elif not quiet:
        fused = api.count_fused(expanded(model), allow_links_within=allowed)
        stdout_console().print(matched_table(found, fused))


def _about(found: "list[AttentionSite | Refusal]", node: str) -> "list[AttentionSite | Refusal]":
    import difflib

    from qfa_passes.core.site import AttentionSite

    labels = [e.name if isinstance(e, AttentionSite) else e.where for e in found]
    chosen = [
        entry
        for entry, label in zip(found, labels, strict=True)
        if node == label or (isinstance(entry, AttentionSite) and node in entry.nodes)
    ]
    if not chosen:
        close = difflib.get_close_matches(node, labels, 1)
        raise UsageError(
            f"no attention candidate is called {node!r}",
            why="only softmax and attention nodes are looked at",
            hint=f"did you mean {close[0]!r}?" if close else "run `inspect MODEL` for their names",
        )
    return chosen


def _inspection(model: Path, found: "list[AttentionSite | Refusal]") -> dict[str, Any]:
    from qfa_passes.core.site import AttentionSite
    from qfa_passes.report.json_text import plain

    sites = [plain(entry) for entry in found if isinstance(entry, AttentionSite)]
    refusals = [plain(entry) for entry in found if not isinstance(entry, AttentionSite)]
    return {
        "schema_version": 1,
        "model": str(model),
        "sites": sites,
        "refusals": refusals,
        "error": None,
    }
