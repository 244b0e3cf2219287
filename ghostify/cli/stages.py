"""``ghostify stages``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ghostify.cli import _options as given
from ghostify.cli._settings import takes_settings
from ghostify.cli._terminal import (
    Steps,
    check_report_targets,
    print_plain,
    prints_to_stderr,
    warn_in_a_line,
    write_report,
)


@takes_settings("g-ghost")
def stages(
    model: given.Model,
    input_size: given.InputSize = None,
    model_args: given.ModelArgs = None,
    trust: given.Trust = False,
    json_file: given.JsonFile = None,
    markdown_file: given.MarkdownFile = None,
    html_file: given.HtmlFile = None,
    names: Annotated[bool, typer.Option("--names", help="Print the blocks of each too.")] = False,
    chosen: Any = None,
) -> None:
    """List the stages that G-Ghost finds, and what each promises.

    \b
    ghostify stages resnet50
    ghostify stages regnet_x_3_2gf --preset regnet --ratio 0.4
    ghostify stages timm/convnext_tiny --names
    """  # noqa: D301 (click reads the character)
    warn_in_a_line()
    from ghostify import api

    size = given.parse_input_size(input_size)
    check_report_targets(json_file, markdown_file, html_file)
    with prints_to_stderr(), Steps(False, json_file, markdown_file, html_file) as step:
        step(f"opening {model}")
        network = given.open_model(model, model_args, None, trust, size)
        step("finding stages")
        found = api.find_stages(network, chosen, input_size=size)
    write_report(found, json_file, markdown_file, html_file)
    if "-" not in (json_file, markdown_file, html_file):
        print_plain(found)
        for stage in found.stages if names else ():
            blocks = ", ".join("+".join(block) for block in stage.blocks)
            typer.echo(f"{stage.name}: {blocks}")
