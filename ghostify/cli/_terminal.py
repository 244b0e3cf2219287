"""Output of the commands: reports go to stdout and files, everything else to stderr."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ghostify.errors import GhostifyWarning, SettingsError, in_one_line
from ghostify.files import check_writable, write_text
from ghostify.progress import Milestone

if TYPE_CHECKING:
    from ghostify.documents import Writable

INTERRUPTED = 130


class Stopped(SystemExit):
    """The end of a command that was interrupted and has said what is left of it."""

    def __init__(self) -> None:
        super().__init__(INTERRUPTED)


def complain(sentence: str) -> None:
    """An error, on stderr."""
    Console(stderr=True).print(
        f"ghostify: {in_one_line(sentence)}", markup=False, highlight=False, soft_wrap=True
    )


def warn_in_a_line() -> None:
    """Show ghostify's own warnings as one line on stderr, and none of what others warn of."""

    def show(message: Any, category: type[Warning], *rest: Any, **keywords: Any) -> None:
        if issubclass(category, GhostifyWarning):
            complain(f"warning: {message}")

    warnings.showwarning = show


@contextmanager
def prints_to_stderr() -> Iterator[None]:
    """Send the output of a network's own code to stderr: stdout has the results alone."""
    with redirect_stdout(sys.stderr):
        yield


def print_plain(shown: Any) -> None:
    """Print something that `rich` can show to stdout, its numbers not coloured."""
    Console(highlight=False).print(shown)


def check_report_targets(
    json_file: str | None = None, markdown_file: str | None = None, html_file: str | None = None
) -> None:
    """Raise where a report can't be written, before any work is done for it."""
    targets = {"--json": json_file, "--markdown": markdown_file, "--html": html_file}
    given = {option: target for option, target in targets.items() if target is not None}
    for option, target in given.items():
        others = [other for other in given if given[other] == target and other != option]
        if others:
            raise SettingsError(f"{option} and {others[0]} both go to {target}: give two places.")
    for option, target in given.items():
        if not target:
            raise SettingsError(f"{option} names no file: give one, or - for stdout.")
        if target != "-":
            check_writable(Path(target))


def write_report(
    report: Writable,
    json_file: str | None,
    markdown_file: str | None,
    html_file: str | None = None,
    to_html: Callable[[], str] | None = None,
) -> None:
    """A report as files; ``-`` is stdout.

    Args:
        report: The report.
        json_file: Where its JSON goes; None for nowhere.
        markdown_file: Where its Markdown goes.
        html_file: Where its page goes.
        to_html: What makes the page, where the report alone has not all of it.
    """
    page = to_html or report.to_html
    made = (json_file, report.to_json), (markdown_file, report.to_markdown), (html_file, page)
    for target, text in made:
        write_target(target, text)


def write_target(target: str | None, text: Callable[[], str]) -> None:
    """Write a text to a file, ``-`` for stdout; it is not made where there is no target."""
    if target == "-":
        sys.stdout.write(text().rstrip() + "\n")
    elif target is not None:
        write_text(Path(target), text().rstrip() + "\n")


class Steps:
    """What a command does now, on stderr where that is a terminal, from a second on.

    It is a `Progress`: it takes texts, and a `Milestone` becomes a bar with the time that is left.

    Args:
        quiet: Whether to show nothing.
        *targets: Where reports go: none is shown beside one on stdout.

    Example:
        >>> with Steps(True) as step:
        ...     step("reading")
        ...     step(Milestone("writing layer1", 0.5))
    """

    def __init__(self, quiet: bool = False, *targets: str | None) -> None:
        console = Console(stderr=True)
        # Rarely, for a clock may be running; speeds are of the last minutes.
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(),
            TaskProgressColumn(), TimeElapsedColumn(), _Left(),
            console=console, transient=True, refresh_per_second=4, speed_estimate_period=300,
        )  # fmt: skip
        self._task = self._progress.add_task("", total=None)
        self._share: float | None = None
        self._shown = not quiet and console.is_terminal and "-" not in targets
        self._timer = Timer(1.0, self._progress.start)
        self._timer.daemon = True

    def __enter__(self) -> Steps:
        if self._shown:
            self._timer.start()
        return self

    def __call__(self, text: str) -> None:
        """Say what is done now."""
        share = text.share if isinstance(text, Milestone) else None
        is_new = (share is None) != (self._share is None) or (share or 0) < (self._share or 0)
        if is_new:
            self._progress.remove_task(self._task)
            total = None if share is None else 1.0
            self._task = self._progress.add_task(str(text), total=total)
        self._progress.update(self._task, description=str(text), completed=share or 0)
        self._share = share

    def __exit__(self, *error: object) -> None:
        if self._shown:
            self._timer.cancel()
            self._timer.join()  # it may be starting the bar right now
            self._progress.stop()


class _Left(TimeRemainingColumn):
    """The time that is left, where it is known."""

    def render(self, task: Task) -> Text:
        """Nothing before two milestones."""
        left = task.time_remaining
        return Text("") if left is None else Text("left ") + super().render(task)
