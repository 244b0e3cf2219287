"""``ghostify export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ghostify.cli import _options as given
from ghostify.cli._terminal import Steps, prints_to_stderr, warn_in_a_line, write_report
from ghostify.errors import SettingsError


def export(
    model: given.Model,
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="The file to write.")],
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="F",
            help="onnx, openvino, pt2, aoti, executorch or litert; else the file's name tells.",
        ),
    ] = None,
    batch: Annotated[
        str, typer.Option(metavar="N|dynamic", help="Images at a time, or any number.")
    ] = "1",
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise: onnx, openvino or executorch.")
    ] = False,
    calibration: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Images to quantise by, and to compare on."),
    ] = None,
    calibration_samples: Annotated[
        int | None, typer.Option(metavar="N", help="How many of them to take (300).")
    ] = None,
    self_check: Annotated[
        bool, typer.Option("--self-check", help="Print how near each output is, at each batch.")
    ] = False,
    input_size: given.InputSize = None,
    weights: given.Weights = None,
    model_args: given.ModelArgs = None,
    trust: given.Trust = False,
    json_file: given.JsonFile = None,
    quiet: given.Quiet = False,
) -> None:
    """Write a network's inference form to a file for a runtime, and check it there.

    The file is run and compared with the network; where they differ, nothing is written.

    \b
    ghostify export out -o net.onnx
    ghostify export out -o net.xml --batch dynamic
    ghostify export resnet50 --format executorch -o net.pte
    ghostify export out --int8 --calibration images/ --self-check -o net.onnx
    """  # noqa: D301 (click reads the character)
    warn_in_a_line()
    from ghostify import deploy

    size = given.parse_input_size(input_size)
    by = _calibration(int8, calibration, calibration_samples)
    with prints_to_stderr(), Steps(quiet, json_file) as step:
        step(f"opening {model}")
        network = given.open_model(model, model_args, weights, trust, size)
        step(f"writing {out}")
        done = deploy.export(
            network, Path(out), file_format, batch=_batch(batch), int8=int8, progress=step, **by,
            **_size_of(network, size),
        )  # fmt: skip
    write_report(done, json_file, None)
    if not quiet and json_file != "-":
        typer.echo(str(done.details() if self_check else done).strip())


def _batch(text: str) -> int | Literal["dynamic"]:
    if text == "dynamic":
        return "dynamic"
    number = given.whole(text)
    if number is None or number < 1:
        raise SettingsError(f"--batch={text} makes no sense: give a number of images, or dynamic.")
    return number


def _calibration(int8: bool, folder: str | None, samples: int | None) -> dict[str, Any]:
    """What ``--int8`` is calibrated by."""
    if folder is None:
        if int8:
            raise SettingsError("--int8 needs images to calibrate it: give --calibration FOLDER.")
        if samples is not None:
            raise SettingsError("--calibration-samples given without --calibration FOLDER: add it.")
        return {}
    data = {"calibration": given.open_data("--calibration", folder)}
    return data if samples is None else {**data, "calibration_samples": samples}


def _size_of(network: Any, size: tuple[int, ...] | None) -> dict[str, Any]:
    """The size of the input: what is asked for, else what a saved network was counted with."""
    from ghostify.graph.inputs import image_size
    from ghostify.saving.history import history_of

    known = history_of(network).report
    found = size or (image_size(known.inputs) if known is not None else ())
    return {"input_size": found} if found else {}
