"""What the recipe of a saved network says, as YAML and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from ghostify._version import __version__
from ghostify.errors import SavedFolderError
from ghostify.layouts import Strides, describe_strides, parse_strides
from ghostify.plans import Plan
from ghostify.provenance import Provenance, Source, Start

FORMAT = "ghostify.recipe/1"
"""Name and version of the recipe; the number goes up when a key changes its meaning or goes."""


@dataclass(frozen=True)
class SavedFolder:
    """What a saved folder says.

    Attributes:
        directory: The folder.
        provenance: How the network was made.
        weights: Path of the safetensors file.
        sha256: Checksum of that file.
        training: Whether the network was in train mode.
        exceptions: Names of the modules that were in the other mode (frozen batch norms, say).
        dtype: Type of all its floating-point parameters, where they have one in common.
        channels_last: Whether its kernels lay in memory with the channels last.
        strides: Of the tensors that lay in memory otherwise; None where an older save does not say.
        input_shapes: Shapes of the inputs that its costs were counted for; empty where not known.
    """

    directory: Path
    provenance: Provenance
    weights: Path
    sha256: str
    training: bool
    exceptions: tuple[str, ...]
    dtype: torch.dtype | None
    channels_last: bool
    strides: Strides | None
    input_shapes: tuple[tuple[int, ...], ...]


def describe(model: nn.Module, provenance: Provenance) -> dict[str, Any]:
    """All that the recipe says but for the weights' name, as plain data."""
    source = provenance.source
    report, channels_last = provenance.report, _is_channels_last(model)
    recipe = {
        "format": FORMAT,
        "versions": {"ghostify": __version__, "torch": str(torch.__version__)},
        "source": None
        if source is None
        else {"name": source.name, "model_args": dict(source.model_args)},
        "weights": {},
        "training": model.training,
        "exceptions": [n for n, m in model.named_modules() if m.training != model.training],
        "dtype": _common_dtype(model),
        "channels_last": channels_last,
        "strides": describe_strides(model.state_dict(), channels_last),
        "inputs": report.inputs if report is not None else None,
        "conversions": [plan.to_dict() for plan in provenance.plans],
    }
    if provenance.start is not None:
        errors = {name: round(error, 6) for name, error in provenance.start.errors.items()}
        recipe["warm_start"] = {"errors": errors, "notes": list(provenance.start.notes)}
    # Through JSON: whatever is no plain data (in model_args, say) must not reach the file.
    plain: dict[str, Any] = json.loads(json.dumps(recipe))
    return plain


def to_yaml(recipe: Mapping[str, Any]) -> str:
    """The recipe's text."""
    head = "# How this network was made. Load it with ghostify.load(FOLDER).\n"
    return head + yaml.safe_dump(dict(recipe), sort_keys=False, default_flow_style=None, width=100)


def check_format(directory: Path, found: Any) -> None:
    """Raise unless this ghostify reads the format."""
    if found != FORMAT:
        raise SavedFolderError(
            f"{directory} has the format {found!r}, and this ghostify ({__version__}) reads "
            f"{FORMAT!r}: use the ghostify that saved it."
        )


def parse(directory: Path, recipe: Mapping[str, Any]) -> SavedFolder:
    """What a recipe says; raises what comes of it where it is damaged."""
    weights, dtype = recipe["weights"], recipe["dtype"]
    if Path(weights["file"]).name != weights["file"]:
        raise ValueError(f"weights file {weights['file']!r} is not inside the folder")
    if dtype is not None and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ValueError(f"{dtype!r} is no dtype")
    for key in ("training", "channels_last"):
        if not isinstance(recipe[key], bool):
            raise TypeError(f"{key} is {recipe[key]!r}, not true or false")
    provenance = Provenance(
        source=_parse_source(recipe["source"]),
        plans=tuple(Plan.from_dict(plan) for plan in recipe["conversions"]),
        start=_parse_start(recipe.get("warm_start")),
    )
    return SavedFolder(
        directory=directory,
        provenance=provenance,
        weights=directory / weights["file"],
        sha256=weights["sha256"],
        training=recipe["training"],
        exceptions=tuple(recipe["exceptions"]),
        dtype=getattr(torch, dtype) if dtype is not None else None,
        channels_last=recipe["channels_last"],
        strides=parse_strides(recipe["strides"]) if "strides" in recipe else None,
        input_shapes=_input_shapes(recipe["inputs"]),
    )


def _parse_source(source: Mapping[str, Any] | None) -> Source | None:
    if source is None:
        return None
    name, model_args = source["name"], source["model_args"]
    if not isinstance(name, str) or not isinstance(model_args, Mapping):
        raise TypeError(f"{name!r} with {model_args!r} is no name with arguments")
    return Source(name, model_args)


def _parse_start(start: Mapping[str, Any] | None) -> Start | None:
    if start is None:
        return None
    errors = {str(name): float(error) for name, error in start["errors"].items()}
    return Start(errors, tuple(str(note) for note in start["notes"]))


def _input_shapes(inputs: str | None) -> tuple[tuple[int, ...], ...]:
    """``1x3x32x32, 1x10`` as ``((1, 3, 32, 32), (1, 10))``."""
    shapes = inputs.split(", ") if inputs and inputs[0].isdecimal() else []
    return tuple(tuple(int(size) for size in shape.split("x")) for shape in shapes)


def _common_dtype(model: nn.Module) -> str | None:
    dtypes = {p.dtype for p in model.parameters() if p.dtype.is_floating_point}
    only = dtypes.pop() if len(dtypes) == 1 else torch.float32
    return None if only == torch.float32 else str(only).removeprefix("torch.")


def _is_channels_last(model: nn.Module) -> bool:
    kernels = [p for p in model.parameters() if p.ndim == 4 and not p.is_contiguous()]
    return any(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
