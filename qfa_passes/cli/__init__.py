"""The command line: options in, one call of the API, tables or JSON out.

Only typer and the vocabulary are imported here; everything else waits until a command runs, so that
``--help`` answers at once. Errors leave as exceptions; ``__main__`` turns them into exit codes.
"""

from typing import Annotated

import typer

from qfa_passes.cli.doctor import doctor
from qfa_passes.cli.inspect import inspect
from qfa_passes.cli.optimize import optimize
from qfa_passes.cli.verify import verify

app = typer.Typer(
    name="qfa",
    help="Finds attention in ONNX models, quantizes it and fuses it into one operator.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in (optimize, inspect, verify, doctor):
    app.command()(command)


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
