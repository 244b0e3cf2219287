"""``ghostify report``."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from ghostify.cli import _options as given
from ghostify.cli._terminal import (
    Steps,
    check_report_targets,
    print_plain,
    prints_to_stderr,
    warn_in_a_line,
    write_report,
)


class Order(str, Enum):
    """Order of the layers in the table."""

    savings = "savings"
    network = "network"


def report(
    model: given.Model,
    input_size: given.InputSize = None,
    model_args: given.ModelArgs = None,
    trust: given.Trust = False,
    order: Annotated[Order, typer.Option(help="Largest first, or in network order.")] = (
        Order.savings
    ),
    layers: Annotated[int, typer.Option(min=0, help="Layers to show; 0 for all.")] = 20,
    json_file: given.JsonFile = None,
    markdown_file: given.MarkdownFile = None,
    html_file: given.HtmlFile = None,
    quiet: given.Quiet = False,
) -> None:
    """Print what a saved conversion saved, or what a network costs.

    \b
    ghostify report out
    ghostify report resnet50 --input-size 3x320x320
    ghostify report out --order network --layers 0 --markdown report.md
    """  # noqa: D301 (click reads the character)
    warn_in_a_line()
    from ghostify import api
    from ghostify.documents.render import TerminalDocument
    from ghostify.saving.history import history_of

    size = given.parse_input_size(input_size)
    check_report_targets(json_file, markdown_file, html_file)
    with prints_to_stderr(), Steps(quiet, json_file, markdown_file, html_file) as step:
        step(f"opening {model}")
        network = given.open_model(model, model_args, None, trust, size)
        step("counting")
        is_counted = history_of(network).report is not None
        found = api.report(network) if is_counted else api.report(network, input_size=size)
    write_report(found, json_file, markdown_file, html_file)
    if not quiet and "-" not in (json_file, markdown_file, html_file):
        print_plain(TerminalDocument(found.document(order.value, layers or None)))
