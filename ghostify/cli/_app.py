"""The commands, gathered."""

from __future__ import annotations

from typing import Annotated

import typer

from ghostify._version import __version__
from ghostify.cli._names import Command
from ghostify.cli.analyze import analyze
from ghostify.cli.bench import bench
from ghostify.cli.check import check
from ghostify.cli.convert import convert
from ghostify.cli.doctor import doctor
from ghostify.cli.evaluate import evaluate
from ghostify.cli.export import export
from ghostify.cli.finetune import finetune
from ghostify.cli.models import models
from ghostify.cli.push import push
from ghostify.cli.report import report
from ghostify.cli.reproduce import reproduce
from ghostify.cli.stages import stages

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)
COMMANDS = (
    convert, finetune, evaluate, bench, export, stages, report, check, analyze, reproduce, models,
    push, doctor,
)  # fmt: skip
for command in COMMANDS:
    app.command(cls=Command)(command)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"ghostify {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Make a CNN cheaper with ghost modules.

    \b
    ghostify convert resnet50 --s 2 -o out     convert, print what it saves, save
    ghostify finetune out --data images ...    tune it by a teacher and by labels
    ghostify evaluate out --data images        its top-1 and top-5 accuracy
    ghostify bench out                         its time beside the original's
    ghostify export out -o net.onnx            its inference form for a runtime, checked there
    ghostify stages resnet50                   the stages that G-Ghost would rebuild
    ghostify report out                        what was saved, or what a network costs
    ghostify check out --min-macs-ratio 1.8    exit 1 where a bound is missed (for CI)
    ghostify analyze resnet50 --image cat.jpg  what in its feature maps is redundant
    ghostify reproduce --table 4               the paper's tables, counted
    ghostify models 'resnet*'                  the names that MODEL may be
    ghostify push out user/name                a saved network to the Hugging Face Hub
    ghostify doctor                            versions and runtimes: what a bug report needs
    """  # noqa: D301 (click reads the character)
