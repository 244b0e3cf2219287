"""``ghostify finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from ghostify.cli import _options as given
from ghostify.cli._processes import one_speaks
from ghostify.cli._terminal import (
    Stopped,
    check_report_targets,
    complain,
    prints_to_stderr,
    warn_in_a_line,
    write_target,
)
from ghostify.errors import ModelError

if TYPE_CHECKING:
    from torch import nn


def _number(help_text: str, metavar: str = "N") -> Any:
    return typer.Option(help=help_text, metavar=metavar, show_default=False)


Whole: TypeAlias = int | None
Real: TypeAlias = float | None


def finetune(
    model: given.Model,
    data: Annotated[
        str,
        typer.Option(
            metavar="FOLDER|FILE.py:F",
            help="Images in class folders, or with train/ inside; or what gives a loader.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT", help="Save the tuned network here.")
    ],
    teacher: Annotated[
        str | None, typer.Option(metavar="MODEL|DIR", help="The original, or another network.")
    ] = None,
    teacher_weights: Annotated[
        str | None, typer.Option(metavar="W", help="Its weights; alone: those of DIR's original.")
    ] = None,
    val: Annotated[
        str | None,
        typer.Option(metavar="FOLDER|FILE.py:F", help="For validation (val/ or test/ in FOLDER)."),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(metavar="FILE.py:F", help="Your own loss: from network and batch."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(metavar="FILE.py:F", help="Your own metric: from network and batches."),
    ] = None,
    epochs: Annotated[Whole, _number("Passes over the images (10).")] = None,
    steps: Annotated[Whole, _number("Steps, in place of --epochs.")] = None,
    batch_size: Annotated[Whole, _number("Images of a step, of all processes (128).")] = None,
    optimizer: Annotated[str | None, _number("muon (the default), sgd or adamw.", "NAME")] = None,
    lr: Annotated[Real, _number("Highest learning rate (muon up to 0.02).", "X")] = None,
    weight_decay: Annotated[Real, _number("Of all but norms and biases (0.0001).", "X")] = None,
    warmup: Annotated[Real, _number("Part of the steps with a rising rate (0.05).", "X")] = None,
    ema: Annotated[Real, _number("Decay of an average of the weights (0: none).", "X")] = None,
    clip: Annotated[Real, _number("Largest norm of the gradient (5; 0: any).", "X")] = None,
    temperature: Annotated[Real, _number("Of the distillation (4).", "X")] = None,
    kd: Annotated[Real, _number("Weight of the teacher's logits (1).", "X")] = None,
    features: Annotated[Real, _number("Weight of its features at first (30).", "X")] = None,
    ce: Annotated[Real, _number("Weight of the labels (0.1; 1 without a teacher).", "X")] = None,
    label_smoothing: Annotated[Real, _number("Of the labels (0).", "X")] = None,
    norms: Annotated[
        str | None, _number("Batch norms: batch (the default), frozen.", "NAME")
    ] = None,
    precision: Annotated[str | None, _number("fp32 (the default), bf16, fp16.", "NAME")] = None,
    accumulate: Annotated[Whole, _number("Parts to work off a batch in (1).")] = None,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Keep channels last in memory.")
    ] = False,
    no_augment: Annotated[
        bool, typer.Option("--no-augment", help="Do not crop and mirror at random.")
    ] = False,
    val_samples: Annotated[Whole, _number("Images of a validation (all).")] = None,
    validate_steps: Annotated[Whole, _number("Steps between validations (an epoch).")] = None,
    checkpoint_steps: Annotated[Whole, _number("Steps between checkpoints (5 minutes).")] = None,
    log_steps: Annotated[Whole, _number("Steps between lines of the log (10).")] = None,
    workers: Annotated[Whole, _number("Processes that read large images (0).")] = None,
    seed: Annotated[Whole, _number("Of order, variation and dropout (0).")] = None,
    input_size: given.InputSize = None,
    model_args: given.ModelArgs = None,
    trust: given.Trust = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the run in OUT was stopped.")
    ] = False,
    accelerator: Annotated[
        str, typer.Option(metavar="NAME", help="auto, cpu, cuda, ...", show_default=False)
    ] = "auto",
    devices: Annotated[
        str, typer.Option(metavar="N", help="How many (1); torchrun says it itself.")
    ] = "1",
    html_file: given.HtmlFile = None,
    quiet: given.Quiet = False,
) -> None:
    """Tune a network by a teacher, labels or your own loss, and save it.

    \b
    ghostify finetune out --data images --teacher-weights trained.safetensors --epochs 5 -o tuned
    ghostify finetune out --data images --teacher timm/resnet50 --teacher-weights W.pt -o tuned
    ghostify finetune out --data images --steps 300 --val images/test --ema 0.999 -o tuned
    ghostify finetune out --data images --teacher-weights trained.safetensors -o tuned --resume
    ghostify finetune out --data task.py:loader --loss task.py:loss --steps 300 -o tuned
    torchrun --nproc-per-node 2 -m ghostify finetune out --data images --epochs 5 -o tuned
    """  # noqa: D301 (click reads the character)
    warn_in_a_line()
    from ghostify import saving, train
    from ghostify.train.board import Board

    options = {
        "epochs": epochs, "steps": steps, "batch_size": batch_size, "optimizer": optimizer,
        "lr": lr, "weight_decay": weight_decay, "warmup": warmup, "ema": ema, "clip": clip,
        "temperature": temperature, "kd": kd, "features": features, "ce": ce,
        "label_smoothing": label_smoothing, "norms": norms, "precision": precision,
        "accumulate": accumulate, "val_samples": val_samples, "validate_steps": validate_steps,
        "checkpoint_steps": checkpoint_steps, "log_steps": log_steps, "workers": workers,
        "seed": seed,
    }  # fmt: skip
    with one_speaks() as first, prints_to_stderr():
        chosen = train.FinetuneSettings(
            channels_last=channels_last,
            augment=not no_augment,
            **{name: value for name, value in options.items() if value is not None},  # type: ignore[arg-type]
        )
        size = given.parse_input_size(input_size)
        check_report_targets(html_file=html_file)
        saving.check_target(output)
        own_loss = None if loss is None else given.open_function("--loss", loss)
        own_metric = None if metric is None else given.open_function("--metric", metric)
        shown, checked = given.open_data("--data", data), val and given.open_data("--val", val)
        student = given.open_model(model, model_args, None, trust)
        taught = _open_teacher(student, model, teacher, teacher_weights, trust)
        with Board(quiet or not first) as board:
            result = train.finetune(
                student, shown, chosen, teacher=taught, val=checked, output=output, resume=resume,
                accelerator=accelerator, devices=devices, input_size=size, progress=board,
                loss=own_loss, metric=own_metric,
            )  # fmt: skip
    if first:
        write_target(html_file, result.to_html)
    if first and not quiet and html_file != "-":
        typer.echo("\n".join(result.describe()))
    if first and result.interrupted:
        complain(
            f"stopped after step {result.steps} of {result.total_steps}: the same command with "
            "--resume goes on from there"
        )
    if result.interrupted:
        raise Stopped
    if first and not quiet:
        complain(f"saved to {output}")


def _open_teacher(
    student: nn.Module, model: str, teacher: str | None, weights: str | None, trust: bool
) -> nn.Module | None:
    """``--teacher`` and ``--teacher-weights``; None where neither is given."""
    from ghostify import zoo
    from ghostify.saving.history import history_of

    if teacher is None and weights is None:
        return None
    source = history_of(student).source
    if teacher is not None:
        if weights is None and not given.names_saved(teacher) and not zoo.runs_user_code(teacher):
            raise ModelError(
                f"The teacher {teacher!r} would have random weights: give --teacher-weights."
            )
        return given.open_model(teacher, None, weights, trust)
    if source is None:
        raise ModelError(f"{model} does not say what builds its original: give --teacher too.")
    from ghostify import api

    return api.build(source.name, source.model_args, weights)
