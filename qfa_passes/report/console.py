"""Where text goes: results to stdout, messages to stderr, colours only to a terminal."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from qfa_passes.core.printable import printable

Step = Callable[[str, int, int], None]
"""Called with a phase, steps done and steps in all."""

_PIPE_WIDTH = 160
"""Columns when nobody looks: wide enough for node names, so that lines can be searched."""
_UNBROKEN = 10_000


def stdout_console() -> Console:
    """Returns the console of results."""
    return Console(
        file=sys.stdout,
        highlight=False,
        markup=False,
        emoji=False,
        width=None if sys.stdout.isatty() else _PIPE_WIDTH,
    )


def print_rows(*parts: RenderableType) -> None:
    """Prints a table whose rows must stay one line each where a program reads them: they are as long as they need."""
    if sys.stdout.isatty():
        stdout_console().print(*parts, sep="\n")
        return
    console = Console(
        file=io.StringIO(), highlight=False, markup=False, emoji=False, width=_UNBROKEN
    )
    with console.capture() as capture:
        console.print(*parts, sep="\n")
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def stderr_console() -> Console:
    """Returns the console of messages and progress."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def message(text: str, limit: int = 2000) -> Text:
    """Returns text of several lines, safe for a terminal whatever names it quotes."""
    return Text("\n".join(printable(line, limit) for line in text.split("\n")))


@contextmanager
def progress(*, quiet: bool, verbose: bool) -> Iterator[Step | None]:
    """Shows progress: a bar on a terminal, a line per phase with ``verbose``, else nothing."""
    interactive = sys.stderr.isatty() and not os.environ.get("CI") and not quiet
    if interactive and os.environ.get("TERM") != "dumb":
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=stderr_console(), transient=True) as display:
            yield _bar(display)
    elif verbose and not quiet:
        yield _lines()
    else:
        yield None


def _bar(display: Progress) -> Step:
    task = display.add_task("", total=1)
    current = ""

    def step(phase: str, done: int, total: int) -> None:
        nonlocal current
        if phase != current:
            display.reset(task)
            current = phase
        display.update(task, description=printable(phase), completed=done, total=max(total, 1))

    return step


def _lines() -> Step:
    current = ""

    def step(phase: str, done: int, total: int) -> None:
        nonlocal current
        if phase != current:
            current = phase
            print(f"qfa: {printable(phase)}", file=sys.stderr, flush=True)

    return step
