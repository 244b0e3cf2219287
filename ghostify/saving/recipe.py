"""The recipe of a saved network: to YAML and back."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from ghostify import zoo
from ghostify._version import __version__
from ghostify.errors import GhostifyWarning, SavedFolderError, shown
from ghostify.files.plain_data import check_extent
from ghostify.graph.input_form import parse_form
from ghostify.graph.inputs import NO_TENSOR, ExampleInputs, Inputs
from ghostify.plans import Plan
from ghostify.saving.history import History, Source, Start, history_of
from ghostify.saving.layouts import Strides, describe_strides, parse_strides
from ghostify.saving.sealed import NAMES, SealedFile
from ghostify.saving.untrusted import UntrustedError, check_source
from ghostify.settings.base import is_number

FORMAT = "ghostify.recipe/1"
"""Name and version of the recipe; the number goes up when a key changes its meaning or goes."""
MOST_CONVERSIONS = 100
MOST_LETTERS = 250
MOST_INPUTS = 2**30
"""The most numbers in the inputs that costs are counted for: no image, and no batch, is larger."""
_SHAPES = re.compile(
    r"(\d{1,10}(x\d{1,10}){0,15})?(, (\d{1,10}(x\d{1,10}){0,15})?){0,99}", re.ASCII
)


@dataclass(frozen=True)
class SavedFolder:
    """Content of a saved folder: its recipe, checked.

    Attributes:
        directory: The folder.
        history: How the network was made.
        weights: The safetensors file.
        training: Whether the network was in train mode.
        exceptions: Names of the modules that were in the other mode (frozen batch norms, say).
        dtype: Type of all its floating-point parameters, where they have one in common.
        channels_last: Whether its kernels lay in memory with the channels last.
        strides: Of the tensors that lay in memory otherwise; None where an older save does not say.
        input_shapes: Shapes of the inputs that its costs were counted for; empty where not known.
        inputs: The same, where they are no plain images: nested as the network takes them.
        program: The file of `torch.export` that runs the network by itself, where there is one.
    """

    directory: Path
    history: History
    weights: SealedFile
    training: bool
    exceptions: tuple[str, ...]
    dtype: torch.dtype | None
    channels_last: bool
    strides: Strides | None
    input_shapes: tuple[tuple[int, ...], ...]
    inputs: Inputs | None = None
    program: SealedFile | None = None

    @property
    def files(self) -> tuple[SealedFile, ...]:
        """All files that the recipe names."""
        return (self.weights,) if self.program is None else (self.weights, self.program)


def counted_inputs_of(model: nn.Module) -> ExampleInputs | None:
    """The inputs that a network's costs were counted for, without data; None where not known."""
    report = history_of(model).report
    if report is None:
        return None
    if report.form is not None:
        return parse_form(report.form)
    shapes = _input_shapes(report.inputs) if _is_readable(report.inputs) else ()
    return images_of(model, shapes) if shapes else None


def images_of(model: nn.Module, shapes: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
    """Tensors without data that a network takes, of its own floating-point type."""
    floats = (p.dtype for p in model.parameters() if p.dtype.is_floating_point)
    dtype = next(floats, torch.float32)
    return tuple(torch.empty(shape, dtype=dtype, device="meta") for shape in shapes)


def describe_network(model: nn.Module, history: History) -> dict[str, Any]:
    """All that the recipe says but for the weights' name, as plain data.

    Raises:
        ValueError: The data is such that `parse` would refuse it.
    """
    report, channels_last = history.report, _is_channels_last(model)
    recipe = {
        "format": FORMAT,
        "versions": {"ghostify": __version__, "torch": str(torch.__version__)},
        "source": _describe_source(history.source),
        "weights": {},
        "training": model.training,
        "exceptions": [n for n, m in model.named_modules() if m.training != model.training],
        "dtype": _common_dtype(model),
        "channels_last": channels_last,
        "strides": describe_strides(model.state_dict(), channels_last),
        "inputs": report.inputs if report is not None and _is_readable(report.inputs) else None,
        "conversions": [plan.to_dict() for plan in history.plans],
    }
    if report is not None and report.form is not None:
        recipe["input_form"] = report.form
    if history.start is not None:
        start = history.start
        recipe["warm_start"] = {
            "errors": {name: e if e is None else round(e, 6) for name, e in start.errors.items()},
            "held_out": {name: round(error, 6) for name, error in start.held_out.items()},
            "notes": list(start.notes),
        }
    # Through JSON: whatever is no plain data (in model_args, say) must not reach the file.
    plain: dict[str, Any] = json.loads(json.dumps(recipe))
    check_extent(plain)
    parse(Path(), {**plain, "weights": {"file": "model.safetensors", "sha256": 64 * "0"}})
    return plain


def to_yaml(recipe: Mapping[str, Any]) -> str:
    """The recipe's text."""
    head = "# How this network was made. Load it with ghostify.load(FOLDER).\n"
    return head + yaml.safe_dump(dict(recipe), sort_keys=False, default_flow_style=None, width=100)


def check_format(directory: Path, found: Any) -> None:
    """Raise unless this ghostify reads the format."""
    if found != FORMAT:
        raise SavedFolderError(
            f"{directory} has the format {shown(found)}, and this ghostify ({__version__}) reads "
            f"{FORMAT!r}: use the ghostify that saved it."
        )


def parse(directory: Path, recipe: Mapping[str, Any]) -> SavedFolder:
    """Parse a recipe; raises whatever comes of it where it is damaged."""
    if not isinstance(recipe["conversions"], list) or len(recipe["conversions"]) > MOST_CONVERSIONS:
        raise ValueError(f"conversions is no list of at most {MOST_CONVERSIONS} plans")
    for key in ("training", "channels_last"):
        if not isinstance(recipe[key], bool):
            raise TypeError(f"{key} is {shown(recipe[key])}, not true or false")
    history = History(
        source=_parse_source(recipe["source"]),
        plans=tuple(Plan.from_dict(plan) for plan in recipe["conversions"]),
        start=_parse_start(recipe.get("warm_start")),
    )
    return SavedFolder(
        directory=directory,
        history=history,
        weights=_sealed("weights", recipe["weights"], directory),
        training=recipe["training"],
        exceptions=_texts("exceptions", recipe["exceptions"]),
        dtype=_dtype(recipe["dtype"]),
        channels_last=recipe["channels_last"],
        strides=parse_strides(recipe["strides"]) if "strides" in recipe else None,
        input_shapes=_input_shapes(recipe["inputs"]),
        inputs=parse_form(recipe["input_form"]) if "input_form" in recipe else None,
        program=_sealed("program", recipe["program"], directory) if "program" in recipe else None,
    )


def _mapping(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or any(not isinstance(name, str) for name in value):
        raise TypeError(f"{key} is {shown(value)}, and no mapping of names")
    return value


def _texts(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or any(not isinstance(item, str) for item in value):
        raise TypeError(f"{key} is {shown(value)}, and no list of texts")
    return tuple(value)


def _sealed(kind: str, value: Any, directory: Path) -> SealedFile:
    found = _mapping(kind, value)
    name = _file_name(kind, found["file"])
    return SealedFile(directory / name, _checksum(found["sha256"]))


def _file_name(kind: str, name: Any) -> str:
    """The name of a file, which names no other place and no other kind of file."""
    if not isinstance(name, str) or Path(name).name != name or "\0" in name:
        raise ValueError(f"{kind} file {shown(name)} is not inside the folder")
    end = NAMES[kind][1]
    if not name.endswith(end) or len(name) > MOST_LETTERS:
        raise ValueError(f"{kind} file {shown(name)} has no name of a {end} file")
    return name


def _checksum(text: Any) -> str:
    if not isinstance(text, str) or not re.fullmatch("[0-9a-f]{64}", text):
        raise ValueError(f"sha256 is {shown(text)}, and no checksum")
    return text


def _dtype(name: Any) -> torch.dtype | None:
    if name is None:
        return None
    found = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"{shown(name)} is no dtype of floating-point numbers")
    return found


def _describe_source(source: Source | None) -> dict[str, Any] | None:
    """The source as it is written: without arguments that fetch weights."""
    if source is None:
        return None
    given = dict(source.model_args)
    kept = zoo.without_weights(source.name, given)
    try:
        check_source(Source(source.name, kept))
    except UntrustedError as error:
        if not zoo.runs_user_code(source.name):
            warnings.warn(
                f"What builds this network can't be told without trust ({error}): "
                "load it with load(folder, model=original), or with trust=True.",
                GhostifyWarning,
                stacklevel=2,
            )
    return {"name": source.name, "model_args": kept}


def _parse_source(source: Any) -> Source | None:
    if source is None:
        return None
    found = _mapping("source", source)
    name, model_args = found["name"], _mapping("model_args", found["model_args"])
    if not isinstance(name, str) or len(name) > MOST_LETTERS:
        raise TypeError(f"{shown(name)} is no name of a network")
    return Source(name, model_args)


def _parse_start(start: Any) -> Start | None:
    if start is None:
        return None
    found = _mapping("warm_start", start)
    errors = _mapping("errors", found["errors"])
    dead = {name: None for name, error in errors.items() if error is None}
    numbers = _errors("errors", {k: v for k, v in errors.items() if v is not None})
    held_out = _errors("held_out", found.get("held_out", {}))  # older ones have none
    known = numbers | dead
    return Start({k: known[k] for k in errors}, _texts("notes", found["notes"]), held_out)


def _errors(what: str, given: Any) -> dict[str, float]:
    errors = _mapping(what, given)
    if not all(is_number(error) and math.isfinite(error) for error in errors.values()):
        raise TypeError(f"{what} is {shown(errors)}, and no mapping of names to numbers")
    return {name: float(error) for name, error in errors.items()}


def _is_readable(inputs: str) -> bool:
    try:
        return inputs == NO_TENSOR or bool(_input_shapes(inputs))
    except ValueError:
        return False


def _input_shapes(inputs: Any) -> tuple[tuple[int, ...], ...]:
    """``1x3x32x32, 1x10`` as ``((1, 3, 32, 32), (1, 10))``; a number has the shape ``()``."""
    if inputs is None or inputs == NO_TENSOR:
        return ()
    if not isinstance(inputs, str) or not _SHAPES.fullmatch(inputs):
        raise ValueError(f"inputs is {shown(inputs)}, and not like 1x3x224x224")
    shapes = tuple(
        tuple(int(size) for size in shape.split("x") if size) for shape in inputs.split(", ")
    )
    if sum(math.prod(shape) for shape in shapes) > MOST_INPUTS:
        raise ValueError(f"inputs is {shown(inputs)}, more than {MOST_INPUTS:,} numbers")
    return shapes


def _common_dtype(model: nn.Module) -> str | None:
    dtypes = {p.dtype for p in model.parameters() if p.dtype.is_floating_point}
    only = dtypes.pop() if len(dtypes) == 1 else torch.float32
    return None if only == torch.float32 else str(only).removeprefix("torch.")


def _is_channels_last(model: nn.Module) -> bool:
    kernels = [p for p in model.parameters() if p.ndim == 4 and not p.is_contiguous()]
    return any(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
