"""Options that several commands share, and their values as the package takes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostify.cli._terminal import complain
from ghostify.errors import ModelError, SettingsError

if TYPE_CHECKING:
    from torch import nn

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A torchvision name, timm/NAME, resnet56-cifar (see `ghostify models`), "
        "package.module:factory, file.py:factory, a saved folder, or hf://user/name.",
    ),
]
Calibration = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER|F",
        help="Images (no labels) for a warm start, file.py:function that gives a loader, or "
        "data-free.",
    ),
]
CalibrationSamples = Annotated[
    int | None, typer.Option(metavar="N", help="How many of them to take (512).")
]
TargetMacs = Annotated[
    float | None,
    typer.Option(
        metavar="PART",
        help="Part of the MACs to leave: each layer (or stage) gets its own s (or ratio).",
    ),
]
TargetParams = Annotated[
    float | None, typer.Option(metavar="PART", help="Part of the parameters to leave, likewise.")
]
TargetLatency = Annotated[
    str | None,
    typer.Option(
        metavar="PART|MS",
        help="Time to take at most in --runtime, as 0.6 or 20ms: each layer (or stage) "
        "gets its own s (or ratio).",
    ),
]
Runtime = Annotated[
    str | None,
    typer.Option(
        metavar="R",
        help="Where the network will run (eager, onnxruntime, openvino, ...): what is not faster "
        "there is left.",
    ),
]
Threads = Annotated[int | None, typer.Option(metavar="N", help="Threads of --runtime (1).")]
Batch = Annotated[int | None, typer.Option(metavar="N", help="Images at a time there (1).")]
Device = Annotated[
    str | None, typer.Option(metavar="D", help="Where PyTorch runs it there: cpu, cuda, mps.")
]
LatencyTable = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Measured times to use, or to write if it is not there; else a cache."
    ),
]
Reconstruct = Annotated[
    bool, typer.Option("--reconstruct", help="Then tune blocks and network on these images.")
]
Minutes = Annotated[
    float | None, typer.Option("--minutes", metavar="M", help="Most minutes of it (10).")
]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Of the choice of images and of the tuning (0).")
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
    bool,
    typer.Option(
        "--trust", help="Run the code that a saved folder names as its source, or its program."
    ),
]
JsonFile = Annotated[
    str | None, typer.Option("--json", metavar="FILE|-", help="Write the report as JSON.")
]
MarkdownFile = Annotated[
    str | None, typer.Option("--markdown", metavar="FILE|-", help="Write it as Markdown.")
]
HtmlFile = Annotated[
    str | None, typer.Option("--html", metavar="FILE|-", help="Write it as a page to look at.")
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
    from ghostify import api, saving
    from ghostify.files import kind_of
    from ghostify.saving.history import name_of

    if not names_saved(model):
        try:
            return api.build(model, parse_model_args(model_args), weights)
        except ModelError:
            if model and kind_of(Path(model)) == "folder":
                saving.read(Path(model))  # says what the folder lacks
            raise
    if weights is not None or model_args is not None:
        raise SettingsError(
            f"{model} is a saved folder and has its own weights: leave out --weights, --model-args."
        )
    network = api.load(model, trust=trust, input_size=input_size)
    if name_of(network) == model:
        complain(f"taking the saved folder {model}, not the model of that name")
    return network


def names_saved(model: str) -> bool:
    """Whether MODEL is a saved network: a folder, or one on the Hub."""
    from ghostify import saving

    return bool(model) and (saving.is_hub_name(model) or saving.is_saved(Path(model)))


def open_function(option: str, name: str) -> Any:
    """The function that ``FILE.py:F`` or ``package.module:F`` names."""
    from ghostify import zoo

    if not zoo.runs_user_code(name):
        raise SettingsError(f"{option}={name} names no function: give it as file.py:function.")
    function = _find(option, name)
    if not callable(function):
        raise SettingsError(
            f"{option}={name} is a {type(function).__name__}: name a function of that file."
        )
    return function


def _find(option: str, name: str) -> Any:
    """What an option names in a file or module; errors name the option."""
    from ghostify import zoo

    try:
        return zoo.find_object(name)
    except ModelError as error:
        raise SettingsError(f"{option}={name}: {error}") from error


def open_data(option: str, name: str) -> Any:
    """A folder's path, or the data that ``FILE.py:F`` names: a function that gives them, or they.

    A folder whose own name has a colon is a folder.
    """
    from ghostify import zoo
    from ghostify.errors import first_line
    from ghostify.files import kind_of

    if not zoo.runs_user_code(name) or kind_of(Path(name)) == "folder":
        return name
    found = _find(option, name)
    if not callable(found) or hasattr(found, "__len__"):
        return found
    try:
        return found()
    except Exception as error:
        raise SettingsError(
            f"{option}={name} fails ({type(error).__name__}: {first_line(error).rstrip('.')}): "
            "name a function without arguments that gives a loader or a data set."
        ) from error


def parse_model_args(text: str | None) -> dict[str, Any]:
    """``--model-args``."""
    from ghostify.files.plain_data import UnreadableError, read_json

    try:
        arguments = read_json(text) if text else {}
    except UnreadableError as error:
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
    sizes = [whole(part) for part in text.lower().split("x")]
    if any(size is None or size < 1 for size in sizes):
        raise SettingsError(f"--input-size={text} makes no sense: give it as 3x224x224.")
    return tuple(size for size in sizes if size is not None)


def whole(text: str) -> int | None:
    """A text as a whole number; None where it is none."""
    try:
        return int(text)
    except ValueError:
        return None


def gather_clock(
    runtime: str | None, target_latency: str | None = None, **rest: Any
) -> dict[str, Any]:
    """The options of a clock, as `ghostify.convert` takes them.

    Args:
        runtime: ``--runtime``.
        target_latency: ``--target-latency``.
        **rest: ``threads``, ``batch``, ``device``, ``latency_table``.
    """
    asked = {"runtime": runtime, "target_latency": target_latency, **rest}
    given = {name: value for name, value in asked.items() if value is not None}
    if given and runtime is None:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise SettingsError(f"{names} given without --runtime R: add it, as --runtime onnxruntime.")
    return given


DEFAULT_MINUTES = 10.0


def gather_warm_start(
    calibration: str | None,
    samples: int | None,
    reconstruct: bool,
    minutes: float | None,
    seed: int | None,
    budgets: Mapping[str, float | None] | None = None,
) -> dict[str, Any]:
    """The options of a warm start, as `ghostify.convert` takes them.

    Args:
        calibration: ``--calibration``.
        samples: ``--calibration-samples``.
        reconstruct: ``--reconstruct``.
        minutes: ``--minutes``.
        seed: ``--seed``.
        budgets: Options that need images, by their names in Python.
    """
    targets = {name: value for name, value in (budgets or {}).items() if value is not None}
    asked = {
        **{f"--{name.replace('_', '-')}": value for name, value in targets.items()},
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
    options: dict[str, Any] = {"calibration": calibration, **targets}
    if samples is not None:
        options["calibration_samples"] = samples
    if seed is not None:
        options["calibration_seed"] = seed
    if reconstruct:
        options["reconstruct_minutes"] = DEFAULT_MINUTES if minutes is None else minutes
    return options
