"""``ghostify doctor``."""

from __future__ import annotations

from ghostify.cli import _options as given
from ghostify.cli._terminal import (
    Steps,
    check_report_targets,
    print_plain,
    prints_to_stderr,
    warn_in_a_line,
    write_report,
)


def doctor(
    json_file: given.JsonFile = None,
    markdown_file: given.MarkdownFile = None,
) -> None:
    """Print what a bug report needs: versions, runtimes, extras, processor, threads.

    \b
    ghostify doctor
    ghostify doctor --markdown -
    ghostify doctor --json doctor.json
    """  # noqa: D301 (click reads the character)
    warn_in_a_line()
    from ghostify.deploy.environment import collect_environment

    check_report_targets(json_file, markdown_file)
    with prints_to_stderr(), Steps(False, json_file, markdown_file) as step:
        step("looking around")
        found = collect_environment()
    write_report(found, json_file, markdown_file)
    if "-" not in (json_file, markdown_file):
        print_plain(found)
