"""The command line: options in, one call of the API, tables or JSON out.

Only typer and the vocabulary are imported here; everything else waits until a command runs, so that
``--help`` answers at once. Errors leave as exceptions; ``__main__`` turns them into exit codes.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qfa_passes.core.formats import AttentionFormat, LinearFormat, ScaleMode, VerifyLevel
from qfa_passes.errors import QfaError, SaveError, UsageError

if TYPE_CHECKING:
    from qfa_passes.core.outcome import Report
    from qfa_passes.core.site import AttentionSite, Refusal

app = typer.Typer(
    name="qfa",
    help="Finds attention in ONNX models, quantizes it and fuses it into one operator.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

LATENCY_RUNS = 7


class _Format(StrEnum):
    INT8 = "int8"
    FLOAT = "float"
    FP16 = "fp16"


class _Rotate(StrEnum):
    AUTO = "auto"
    NONE = "none"
    HADAMARD = "hadamard"


class _StopAfter(StrEnum):
    NORMALIZE = "normalize"
    REWRITE = "rewrite"
    FUSE = "fuse"


class _ExternalData(StrEnum):
    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


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


def _show_version(wanted: bool) -> None:
    if wanted:
        from qfa_passes.runtime.environment import package_version

        print(f"qfa-passes {package_version('qfa-passes')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def optimize(
    model: Annotated[Path, typer.Argument(help="The .onnx file.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where the result goes.")
    ] = None,
    format: Annotated[
        _Format,
        typer.Option(
            "--format",
            help="Arithmetic of attention: int8, or float (also fp16): fused, nothing is quantized.",
        ),
    ] = _Format.INT8,
    attention: Annotated[
        AttentionFormat | None, typer.Option(help="Attention alone, over --format.")
    ] = None,
    linear: Annotated[
        LinearFormat | None, typer.Option(help="Linear layers alone, over --format.")
    ] = None,
    scale_mode: Annotated[
        ScaleMode, typer.Option(help="Steps found by the operator, or calibrated (--calib).")
    ] = ScaleMode.DYNAMIC,
    rotate: Annotated[
        _Rotate, typer.Option(help="Rotation of Q and K before quantization.")
    ] = _Rotate.AUTO,
    calib: Annotated[
        Path | None, typer.Option(help="Calibration data (.npz, .txt).", metavar="FILE")
    ] = None,
    tokenizer: Tokenizer = None,
    stop_after: Annotated[
        _StopAfter | None, typer.Option(help="Save the graph as it is after this stage.")
    ] = None,
    verify: Annotated[
        VerifyLevel,
        typer.Option("--verify", help="fast: sites and outputs; full: normalization too."),
    ] = VerifyLevel.FAST,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Leave sites in float whose name matches.", metavar="REGEX"),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="What every site gets (TOML).", metavar="FILE")
    ] = None,
    save_plan: Annotated[
        Path | None, typer.Option(help="Write what every site got, to edit.", metavar="FILE")
    ] = None,
    max_error: Annotated[
        float, typer.Option(help="Largest NMSE of a site; beyond it, float is restored.", min=0.0)
    ] = 5e-4,
    external_data: Annotated[
        _ExternalData, typer.Option(help="Weights in a file beside the model.")
    ] = _ExternalData.AUTO,
    require_match: Annotated[
        bool, typer.Option("--require-match", help="Fail (exit code 3) if nothing is fused.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the inputs made up for verification.", min=0)] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do everything but write the result.")
    ] = False,
    allow_links_within: AllowLinks = None,
    json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Quantize and fuse every attention of a model."""
    from qfa_passes import api
    from qfa_passes.report.console import progress
    from qfa_passes.report.report_file import report_path, write_report
    from qfa_passes.written_paths import check_paths

    model, output = _expanded(model), _expanded_or_none(output)
    calib, plan, save_plan = map(_expanded_or_none, (calib, plan, save_plan))
    if output is None and not dry_run:
        raise UsageError("no output given", hint="add -o OUT.onnx, or --dry-run")
    check_paths(model, output, calib=calib, plan=plan, save_plan=save_plan)
    _configure_logging(verbose, quiet)
    with progress(quiet=quiet, verbose=verbose > 0) as step, _report_of_failure(output, dry_run):
        result = api.optimize(
            model,
            output=output,
            format=format.value,
            attention=attention.value if attention is not None else None,
            linear=linear.value if linear is not None else None,
            scale_mode=scale_mode.value,
            rotate=rotate.value,
            calibration=calib,
            tokenizer=tokenizer,
            stop_after=stop_after.value if stop_after is not None else None,
            verify=verify.value,
            exclude=tuple(exclude or ()),
            plan=plan,
            max_error=max_error,
            external_data=external_data.value,
            seed=seed,
            require_match=require_match,
            dry_run=dry_run,
            allow_links_within=_expanded_or_none(allow_links_within),
            progress=step,
        )
    if save_plan is not None:  # with --dry-run too: that is how a first plan is made
        from qfa_passes.plan.plan_file import write_plan

        write_plan(result.plan, save_plan)
    if output is not None and not dry_run:
        write_report(result.report, report_path(output))
    if json:
        from qfa_passes.report.report_file import report_document

        _print_json(report_document(result.report))
    elif not quiet:
        _show_report(result.report)


@app.command()
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

    _configure_logging(verbose, quiet)
    allowed = _expanded_or_none(allow_links_within)
    found = list(api.inspect(_expanded(model), allow_links_within=allowed))
    if why_not is not None:
        found = _about(found, why_not)
    if json:
        _print_json(_inspection(model, found))
    elif why_not is not None:
        for entry in found:
            stdout_console().print(message("\n".join(explanation(entry))))
    elif not quiet:
        fused = api.count_fused(_expanded(model), allow_links_within=allowed)
        stdout_console().print(matched_table(found, fused))


@app.command()
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

    _configure_logging(verbose, quiet)
    with progress(quiet=quiet, verbose=verbose > 0) as step:
        comparison = api.compare(
            _expanded(a),
            _expanded(b),
            _expanded_or_none(data),
            tokenizer=tokenizer,
            samples=samples,
            context=context,
            latency_runs=LATENCY_RUNS if latency else 0,
            use_library=not no_library,
            allow_links_within=_expanded_or_none(allow_links_within),
            progress=step,
        )
    failure = guard_failure(comparison.guard)
    if json:
        error = error_document(failure) if failure else None
        _print_json({"schema_version": 1, **plain(comparison), "error": error})
    elif not quiet:
        console = stdout_console()
        console.print(comparison_table(comparison))
        for line in verdict_lines(comparison):
            console.print(line)
    if failure:
        raise typer.Exit(failure.exit_code)


@app.command()
def doctor(json: Json = False, verbose: Verbose = 0, quiet: Quiet = False) -> None:
    """Check the installation: versions, library, instruction sets, a self-test."""
    from qfa_passes import api
    from qfa_passes.report.console import stdout_console
    from qfa_passes.report.doctor_table import doctor_table
    from qfa_passes.report.json_text import plain

    _configure_logging(verbose, quiet)
    found = api.doctor()
    if json:
        _print_json({"schema_version": 1, **plain(found), "healthy": found.healthy, "error": None})
    elif not quiet:
        stdout_console().print(doctor_table(found))
    if not found.healthy:
        raise typer.Exit(6)


def _expanded(path: Path) -> Path:
    """Expands ``~``, which a shell leaves alone in ``--output=~/x``."""
    return path.expanduser() if str(path).startswith("~") else path


def _expanded_or_none(path: Path | None) -> Path | None:
    return None if path is None else _expanded(path)


def _configure_logging(verbose: int, quiet: bool) -> None:
    import logging

    level = logging.ERROR if quiet else logging.WARNING
    if verbose:
        level = logging.INFO if verbose == 1 else logging.DEBUG
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s", force=True)


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


@contextmanager
def _report_of_failure(output: Path | None, dry_run: bool) -> Iterator[None]:
    """Writes report.json for a run that fails on the way, as far as it came."""
    try:
        yield
    except QfaError as error:
        if error.report is not None and output is not None and not dry_run:
            from qfa_passes.report.report_file import report_path, write_report

            with suppress(SaveError):  # the first error is the one to tell
                write_report(error.report, report_path(output), error)
        raise


def _print_json(document: dict[str, Any]) -> None:
    from qfa_passes.report.json_text import to_json

    print(to_json(document))


def _show_report(report: "Report") -> None:
    from qfa_passes.report.console import stdout_console
    from qfa_passes.report.summary import summary

    console = stdout_console()
    for part in summary(report):
        console.print(part)
