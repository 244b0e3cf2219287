"""Options that several commands share, and their values as the package takes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostify.cli._terminal import complain
from ghostify.errors import ModelError, SettingsError

if TYPE_CHECKING:
    from torch import nn

    from ghostify.settings import Settings

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A torchvision name, timm/NAME, resnet56-cifar (see `ghostify models`), "
        "package.module:factory, file.py:factory, or a saved folder.",
    ),
]
Mode = Annotated[str | None, typer.Option(help="What to do: c-ghost (the default).")]
S = Annotated[
    list[str] | None,
    typer.Option("--s", metavar="N|PATTERN=N", help="The paper's s: n/s filters stay (2)."),
]
D = Annotated[
    list[str] | None,
    typer.Option("--d", metavar="N|PATTERN=N", help="Kernel size of the cheap operation (3)."),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(metavar="P", help="Leave these layers: name, glob pattern, stem, head."),
]
Only = Annotated[
    list[str] | None, typer.Option(metavar="P", help="Convert these layers alone, likewise.")
]
Linear = Annotated[bool | None, typer.Option("--linear", help="Convert linear layers too.")]
Calibration = Annotated[
    str | None,
    typer.Option(metavar="FOLDER", help="Images (no labels) for a warm start, or data-free."),
]
CalibrationSamples = Annotated[
    int | None, typer.Option(metavar="N", help="How many of them to take (512).")
]
Reconstruct = Annotated[
    bool, typer.Option("--reconstruct", help="Then tune blocks and network on these images.")
]
Minutes = Annotated[float | None, typer.Option(metavar="M", help="Most minutes of it (10).")]
Seed = Annotated[int | None, typer.Option(help="Of the choice of images and of the tuning (0).")]
SettingsFile = Annotated[
    Path | None, typer.Option("--settings", metavar="FILE", help="Settings as YAML or JSON.")
]
InputSize = Annotated[
    str | None,
    typer.Option(metavar="CxHxW", help="Size of one image, as 3x224x224; else worked out."),
]
Weights = Annotated[
    str | None,
    typer.Option(metavar="W", help="A safetensors file, a checkpoint, or torchvision's name."),
]
ModelArgs = Annotated[
    str | None, typer.Option(metavar="JSON", help="Arguments for the factory, as '{\"a\": 1}'.")
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run the code that a saved folder names as its source.")
]
JsonFile = Annotated[
    str | None, typer.Option("--json", metavar="FILE|-", help="Write the report as JSON.")
]
MarkdownFile = Annotated[
    str | None, typer.Option("--markdown", metavar="FILE|-", help="Write it as Markdown.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print no table and no progress.")]


def open_model(
    model: str,
    model_args: str | None = None,
    weights: str | None = None,
    trust: bool = False,
    input_size: tuple[int, ...] | None = None,
) -> nn.Module:
    """The network that MODEL names: built, or loaded from a saved folder."""
    from ghostify import api, io

    if not model or not io.is_saved(Path(model)):
        try:
            return api.build(model, parse_model_args(model_args), weights)
        except ModelError:
            if model and Path(model).is_dir():
                io.read(Path(model))  # says what the folder lacks
            raise
    if weights is not None or model_args is not None:
        raise SettingsError(
            f"{model} is a saved folder and has its own weights: leave out --weights, --model-args."
        )
    network = api.load(model, trust=trust, input_size=input_size)
    if api.name_of(network) == model:
        complain(f"taking the saved folder {model}, not the model of that name")
    return network


def parse_model_args(text: str | None) -> dict[str, Any]:
    """``--model-args``."""
    try:
        arguments = json.loads(text) if text else {}
    except json.JSONDecodeError as error:
        raise ModelError(
            f"--model-args is no JSON ({error}): give it as '{{\"a\": 1}}'."
        ) from error
    if not isinstance(arguments, dict):
        raise ModelError(f"--model-args={text} is no JSON object: give it as '{{\"a\": 1}}'.")
    return arguments


def parse_input_size(text: str | None) -> tuple[int, ...] | None:
    """``--input-size``."""
    if text is None:
        return None
    sizes = [_whole(part) for part in text.lower().split("x")]
    if any(size is None or size < 1 for size in sizes):
        raise SettingsError(f"--input-size={text} makes no sense: give it as 3x224x224.")
    return tuple(size for size in sizes if size is not None)


def gather_settings(file: Path | None, mode: str | None, **options: Any) -> Settings | None:
    """The settings that the options name; None when none is given.

    Args:
        file: ``--settings``.
        mode: ``--mode``.
        **options: The other options, by the names of the settings; None or empty where not given.
    """
    from ghostify.settings import CGhost, make_settings

    given = {name: value for name, value in options.items() if value not in (None, [], ())}
    for name in ("s", "d"):
        if name in given:
            given[name] = _parse_numbers(name, given[name])
    if file is not None:
        named = [*given, *(["mode"] if mode is not None else [])]
        if named:
            raise SettingsError(f"{', '.join(named)} given beside --settings: put them there.")
        return _read_settings(file)
    if not given and mode is None:
        return None
    return make_settings(CGhost.mode if mode is None else mode, **given)


def _parse_numbers(option: str, values: list[str]) -> int | dict[str, int]:
    """``["2"]`` as 2, ``["4", "layer1.*=2"]`` as a mapping, the number for all others last."""
    numbers: dict[str, int] = {}
    for value in values:
        pattern, _, text = value.rpartition("=")
        number = _whole(text)
        if number is None:
            raise SettingsError(f"--{option}={value} is no whole number: give N or PATTERN=N.")
        if pattern in numbers:
            what = f"for {pattern!r}" if pattern else "for all layers"
            raise SettingsError(f"--{option} is given twice {what}: give it once.")
        numbers[pattern] = number
    rest = numbers.pop("", None)
    if rest is None:
        return numbers
    return {**numbers, "*": rest} if numbers else rest


def _whole(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _read_settings(file: Path) -> Settings:
    from ghostify.settings import settings_from_yaml

    try:
        return settings_from_yaml(file.read_text(encoding="utf-8"))  # JSON is YAML too
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise SettingsError(
            f"--settings {file} can't be read ({reason}): give a file of YAML or JSON."
        ) from error
    except SettingsError as error:
        raise SettingsError(f"--settings {file}: {error}") from error


DEFAULT_MINUTES = 10.0


def gather_warm_start(
    calibration: str | None,
    samples: int | None,
    reconstruct: bool,
    minutes: float | None,
    seed: int | None,
) -> dict[str, Any]:
    """The options of a warm start, as `ghostify.convert` takes them."""
    asked = {
        "--calibration-samples": samples,
        "--reconstruct": reconstruct or None,
        "--minutes": minutes,
        "--seed": seed,
    }
    given = [name for name, value in asked.items() if value is not None]
    if calibration is None:
        if given:
            raise SettingsError(f"{', '.join(given)} given without --calibration FOLDER: add it.")
        return {}
    if minutes is not None and not reconstruct:
        raise SettingsError("--minutes bounds the reconstruction: give --reconstruct too.")
    if reconstruct and calibration == "data-free":
        raise SettingsError("--reconstruct needs images: give --calibration FOLDER.")
    options: dict[str, Any] = {"calibration": calibration}
    if samples is not None:
        options["calibration_samples"] = samples
    if seed is not None:
        options["calibration_seed"] = seed
    if reconstruct:
        options["reconstruct_minutes"] = DEFAULT_MINUTES if minutes is None else minutes
    return options
