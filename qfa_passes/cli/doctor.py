"""``qfa doctor``."""

import typer

from qfa_passes.cli.options import Json, Quiet, Verbose, configure_logging, print_json


def doctor(json: Json = False, verbose: Verbose = 0, quiet: Quiet = False) -> None:
    """Check the installation: versions, library, instruction sets, a self-test."""
    from qfa_passes import api
    from qfa_passes.report.console import stdout_console
    from qfa_passes.report.doctor_table import doctor_table
    from qfa_passes.report.json_text import plain

    configure_logging(verbose, quiet)
    found = api.doctor()
    if json:
        print_json({"schema_version": 1, **plain(found), "healthy": found.healthy, "error": None})
    elif not quiet:
        stdout_console().print(doctor_table(found))
    if not found.healthy:
        raise typer.Exit(6)
