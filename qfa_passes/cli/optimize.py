"""``qfa optimize``."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from qfa_passes.core.formats import (
    INT8_BOUND,
    AttentionFormat,
    LinearFormat,
    ScaleMode,
    VerifyLevel,
)
from qfa_passes.errors import QfaError, SaveError, UsageError

if TYPE_CHECKING:
    from qfa_passes.core.outcome import Report


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
        typer.Option(
            "--verify",
            help="fast: proves each block, compares outputs; full: more runs, each pass.",
        ),
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
        float,
        typer.Option(help="Largest NMSE of a site; beyond it, it is fused in float.", min=0.0),
    ] = INT8_BOUND,
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

    model, output = expanded(model), expanded_or_none(output)
    calib, plan, save_plan = map(expanded_or_none, (calib, plan, save_plan))
    if output is None and not dry_run:
        raise UsageError("no output given", hint="add -o OUT.onnx, or --dry-run")
    check_paths(model, output, calib=calib, plan=plan, save_plan=save_plan)
    configure_logging(verbose, quiet)
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
            allow_links_within=expanded_or_none(allow_links_within),
            progress=step,
        )
    if save_plan is not None:  # with --dry-run too: that is how a first plan is made
        from qfa_passes.plan.plan_file import write_plan

        write_plan(result.plan, save_plan)
    if output is not None and not dry_run:
        write_report(result.report, report_path(output))
    if json:
        from qfa_passes.report.report_file import report_document

        print_json(report_document(result.report))
    elif not quiet:
        _show_report(result.report)


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


def _show_report(report: "Report") -> None:
    from qfa_passes.report.console import stdout_console
    from qfa_passes.report.summary import summary

    console = stdout_console()
    for part in summary(report):
        console.print(part)
