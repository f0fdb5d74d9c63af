"""Entry point of ``python -m qfa_passes`` and ``qfa``: runs a command, maps its end to an exit code."""

import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

import typer

from qfa_passes.cli import app
from qfa_passes.errors import QfaError, UsageError

if TYPE_CHECKING:
    from types import FrameType

_INTERRUPTED = 130
_TERMINATED = 143
_PIPE_CLOSED = 141


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code; prints errors, never a traceback without -v."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        result = app(args=arguments, prog_name="qfa", standalone_mode=False)
        sys.stdout.flush()
        code = result if isinstance(result, int) else 0
        # typer turns KeyboardInterrupt into this number; no command of ours returns it.
        return _interrupted(arguments) if code == _INTERRUPTED else code
    except (typer.Abort, KeyboardInterrupt):
        return _interrupted(arguments)
    except BrokenPipeError:
        return _pipe_closed()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer's way to leave
            return _pipe_closed()
        raise
    except QfaError as error:
        return _fail(arguments, error)
    except typer.TyperException as error:
        message = error.format_message()
        if not message:  # no arguments at all: the help has been shown
            return error.exit_code
        message = message.replace(
            "Value error, ", ""
        )  # the validator's words, no use to the reader
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "qfa"
        return _fail(arguments, UsageError(message, hint=f"see `{command} --help`"))
    except OSError as error:
        place = f"'{error.filename}': " if error.filename else ""
        return _fail(arguments, UsageError(f"{place}{error.strerror or error}"))
    except MemoryError:
        return _fail(arguments, UsageError("out of memory", hint="close other programs"), 1)
    except Exception as error:
        return _bug(arguments, error)


def run() -> NoReturn:
    """Runs the command of this process and ends it."""
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name may hold what the terminal's encoding lacks
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main())


def _terminate(number: int, frame: "FrameType | None") -> NoReturn:
    """Leaves by an exception, so that temporary files are removed on the way."""
    sys.exit(_TERMINATED)


def _interrupted(arguments: list[str]) -> int:
    print("qfa: interrupted", file=sys.stderr)
    _print_error_json(arguments, QfaError("interrupted"), _INTERRUPTED)
    return _INTERRUPTED


def _pipe_closed() -> int:
    """The reader has gone; Python must not complain once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
    return _PIPE_CLOSED


def _fail(arguments: list[str], error: QfaError, exit_code: int | None = None) -> int:
    from qfa_passes.report.console import message, stderr_console

    code = error.exit_code if exit_code is None else exit_code
    _print_error_json(arguments, error, code)
    if _asked(arguments, "v", "--verbose"):
        stderr_console().print_exception()
    stderr_console().print(message(f"error: {error}"))
    return code


def _bug(arguments: list[str], error: Exception) -> int:
    from qfa_passes.report.console import message, stderr_console

    wrapped = QfaError(
        f"internal error, {type(error).__name__}",
        why=str(error),
        hint="this is a bug in qfa_passes: please report it with the command, the output of "
        "`qfa doctor --json` and, if it may be shared, the model; -v shows a traceback",
    )
    _print_error_json(arguments, wrapped, 1)
    if _asked(arguments, "v", "--verbose"):
        import traceback

        traceback.print_exc()
    stderr_console().print(message(f"error: {wrapped}"))
    return 1


def _print_error_json(arguments: list[str], error: QfaError, exit_code: int) -> None:
    if not _asked(arguments, "", "--json"):
        return
    from qfa_passes.report.json_text import to_json
    from qfa_passes.report.report_file import error_document, report_document

    if error.report is not None:
        document = report_document(error.report, error)
    else:
        document = {"schema_version": 1, "error": error_document(error)}
    document["error"]["exit_code"] = exit_code
    print(to_json(document), flush=True)


def _asked(arguments: list[str], letter: str, word: str) -> bool:
    """True if a flag is among the arguments, alone or in a cluster; parsing may have failed."""
    for argument in arguments:
        if argument == "--":
            return False
        cluster = argument.startswith("-") and not argument.startswith("--")
        if argument == word or (letter and cluster and letter in argument[1:3]):
            return True
    return False


if __name__ == "__main__":
    run()
