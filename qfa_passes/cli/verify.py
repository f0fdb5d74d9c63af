"""``qfa verify``."""

from pathlib import Path
from typing import Annotated

import typer

from qfa_passes.cli.options import (
    AllowLinks,
    Json,
    Quiet,
    Tokenizer,
    Verbose,
    configure_logging,
    expanded,
    expanded_or_none,
    print_json,
)

LATENCY_RUNS = 7


def verify(
    a: Annotated[Path, typer.Argument(help="The reference, an .onnx file.")],
    b: Annotated[Path, typer.Argument(help="The model under test.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Text (.txt) or arrays (.npz); none: random inputs.", metavar="FILE"),
    ] = None,
    tokenizer: Tokenizer = None,
    samples: Annotated[
        int | None, typer.Option(help="Blocks or samples; default 16 blocks of text.", min=1)
    ] = None,
    context: Annotated[int, typer.Option(help="Tokens per block of text.", min=2)] = 512,
    latency: Annotated[bool, typer.Option("--latency", help="Time both models as well.")] = False,
    no_library: Annotated[
        bool, typer.Option("--no-library", help="Run fused models by their function bodies.")
    ] = False,
    allow_links_within: AllowLinks = None,
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Compare two models: outputs, and for language models perplexity and divergence."""
    from qfa_passes import api
    from qfa_passes.report.comparison_tables import comparison_table, verdict_lines
    from qfa_passes.report.console import progress, stdout_console
    from qfa_passes.report.json_text import plain
    from qfa_passes.report.report_file import error_document
    from qfa_passes.verify.guard import guard_failure

    configure_logging(verbose, quiet)
    with progress(quiet=quiet, verbose=verbose > 0) as step:
        comparison = api.compare(
            expanded(a),
            expanded(b),
            expanded_or_none(data),
            tokenizer=tokenizer,
            samples=samples,
            context=context,
            latency_runs=LATENCY_RUNS if latency else 0,
            use_library=not no_library,
            allow_links_within=expanded_or_none(allow_links_within),
            progress=step,
        )
    failure = guard_failure(comparison.guard)
    if json:
        error = error_document(failure) if failure else None
        print_json({"schema_version": 1, **plain(comparison), "error": error})
    elif not quiet:
        console = stdout_console()
        console.print(comparison_table(comparison))
        for line in verdict_lines(comparison):
            console.print(line)
    if failure:
        raise typer.Exit(failure.exit_code)
