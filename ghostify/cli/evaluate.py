"""``ghostify evaluate``."""

from __future__ import annotations

from typing import Annotated

import typer

from ghostify.cli import _options as given
from ghostify.cli._processes import one_speaks
from ghostify.cli._terminal import (
    Steps,
    check_report_targets,
    prints_to_stderr,
    warn_in_a_line,
    write_report,
)


def evaluate(
    model: given.Model,
    data: Annotated[
        str,
        typer.Option(
            metavar="FOLDER|FILE.py:F",
            help="Images in class folders, or with test/ inside; or what gives a loader.",
        ),
    ],
    weights: given.Weights = None,
    metric: Annotated[
        str | None,
        typer.Option(metavar="FILE.py:F", help="Your own metric: from network and batches."),
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Images at a time.", min=1)] = 256,
    samples: Annotated[
        int | None, typer.Option(metavar="N", help="How many images to take (all).", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of their choice.")] = 0,
    workers: Annotated[
        int, typer.Option(metavar="N", help="Processes that read large images.", min=0)
    ] = 0,
    precision: Annotated[str, typer.Option(metavar="NAME", help="fp32, bf16, fp16.")] = "fp32",
    input_size: given.InputSize = None,
    model_args: given.ModelArgs = None,
    trust: given.Trust = False,
    accelerator: Annotated[
        str, typer.Option(metavar="NAME", help="auto, cpu, cuda, ...", show_default=False)
    ] = "auto",
    devices: Annotated[
        str, typer.Option(metavar="N", help="How many (1); torchrun says it itself.")
    ] = "1",
    json_file: given.JsonFile = None,
    markdown_file: given.MarkdownFile = None,
    quiet: given.Quiet = False,
) -> None:
    """Print a network's accuracy with its 95 % intervals, or a metric of your own.

    \b
    ghostify evaluate out --data images/test
    ghostify evaluate resnet50 --weights DEFAULT --data imagenet/val --workers 2
    ghostify evaluate out --data images --samples 2000 --json -
    ghostify evaluate out --data task.py:loader --metric task.py:mean_iou
    """  # noqa: D301 (click reads the character)
    warn_in_a_line()
    from ghostify import train

    check_report_targets(json_file, markdown_file)
    targets = json_file, markdown_file
    with one_speaks() as first, prints_to_stderr(), Steps(quiet or not first, *targets) as step:
        size = given.parse_input_size(input_size)
        function = None if metric is None else given.open_function("--metric", metric)
        shown = given.open_data("--data", data)
        step(f"building {model}")
        network = given.open_model(model, model_args, weights, trust)
        step("evaluating")
        result = train.evaluate(
            network, shown, metric=function, batch_size=batch_size, samples=samples, seed=seed,
            workers=workers, precision=precision, accelerator=accelerator, devices=devices,
            input_size=size, progress=step,
        )  # fmt: skip
    if first:
        write_report(result, json_file, markdown_file)
        if not quiet and "-" not in (json_file, markdown_file):
            typer.echo(str(result))
