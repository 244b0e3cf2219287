"""The options that make settings, the same for every command that takes them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostify.cli._names import InFileError
from ghostify.cli._options import whole
from ghostify.errors import SettingsError
from ghostify.files import read_text

if TYPE_CHECKING:
    from ghostify.settings import Settings

Command = Callable[..., None]


def _option(help_text: str, metavar: str | None = None) -> Any:
    return typer.Option(help=help_text, metavar=metavar, show_default=False)


# Names are those of the settings; a default of None or an empty list means "not given".
OPTIONS: dict[str, Any] = {
    "mode": Annotated[
        str | None,
        _option("c-ghost (the default), g-ghost, cg-ghost for both, or auto: part by part."),
    ],
    "preset": Annotated[
        str | None, _option("The paper's settings: resnet (the default), cifar, regnet.")
    ],
    "s": Annotated[
        list[str] | None, _option("The paper's s: n/s filters stay (2).", "N|PATTERN=N")
    ],
    "d": Annotated[
        list[str] | None, _option("Kernel size of the cheap operation (3).", "N|PATTERN=N")
    ],
    "linear": Annotated[bool | None, typer.Option("--linear", help="Convert linear layers too.")],
    "costlier": Annotated[
        bool | None, typer.Option("--costlier", help="Convert also where that saves nothing.")
    ],
    "ratio": Annotated[
        list[str] | None, _option("The paper's lambda, share of ghosts (0.5).", "X|PATTERN=X")
    ],
    "min_blocks": Annotated[int | None, _option("Fewer blocks are no stage (3).", "N")],
    "entry": Annotated[
        str | None, _option("slice (the default): thin blocks take the first channels; project.")
    ],
    "tail": Annotated[
        str | None, _option("full (the default): the last block keeps its width; thin.")
    ],
    "cheap": Annotated[
        str | None, _option("Cheap operation: kernel 1 (the default), 3, 5, identity, none.")
    ],
    "mix": Annotated[str | None, _option("fc (the default), mlp or none.")],
    "mix_from": Annotated[
        str | None, _option("What the mix pools: all (the default) or the thin blocks.")
    ],
    "ghost_act": Annotated[
        bool | None, typer.Option("--ghost-act", help="A ReLU after cheap operation and mix.")
    ],
    "group_width": Annotated[
        float | None, _option("Width of a thin block's groups, times the original's (1).", "X")
    ],
    "divisor": Annotated[
        int | None, _option("Thin widths, and intrinsic maps, are multiples of it (1).", "N")
    ],
    "keep": Annotated[
        list[str] | None, _option("Leave these: name, glob pattern, stem, head.", "P")
    ],
    "only": Annotated[list[str] | None, _option("Convert these alone, likewise.", "P")],
    "settings": Annotated[Path | None, _option("All settings as YAML or JSON.", "FILE")],
}


def takes_settings(default_mode: str) -> Callable[[Command], Command]:
    """Give a command the options that make settings, after its first argument.

    It gets the `Settings` as ``chosen``, None where none of the options is given.

    Args:
        default_mode: The mode where options are given, but no ``--mode``.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_settings(*args: Any, **options: Any) -> None:
            values = {name: options.pop(name) for name in OPTIONS}
            command(*args, **options, chosen=gather_settings(default_mode, **values))

        signature = _with_options(command)
        with_settings.__signature__ = signature  # type: ignore[attr-defined]
        with_settings.__annotations__ = {
            name: parameter.annotation for name, parameter in signature.parameters.items()
        }
        return with_settings

    return decorate


def _with_options(command: Command) -> inspect.Signature:
    """The command's signature, ``chosen`` out and the options in."""
    # Not typing.get_type_hints: with a default of None it hides an option's names in Python 3.10.
    own = inspect.signature(command, eval_str=True).parameters.values()
    model, *kept = [parameter for parameter in own if parameter.name != "chosen"]
    place = inspect.Parameter.POSITIONAL_OR_KEYWORD
    added = [
        inspect.Parameter(name, place, default=None, annotation=kind)
        for name, kind in OPTIONS.items()
    ]
    return inspect.Signature([model, *added, *kept])


def gather_settings(
    default_mode: str, settings: Path | None, mode: str | None, **options: Any
) -> Settings | None:
    """The settings that the options name; None when none is given.

    Args:
        default_mode: Where options are given, but no ``--mode``.
        settings: ``--settings``.
        mode: ``--mode``.
        **options: The other options, by the names of the settings; None or empty where not given.
    """
    from ghostify.settings import make_settings

    given = {name: value for name, value in options.items() if value not in (None, [], ())}
    for name, (kind, what) in _NUMBERS.items():
        if name in given:
            given[name] = _parse_numbers(name, given[name], kind, what)
    if "cheap" in given:
        number = whole(given["cheap"])
        given["cheap"] = given["cheap"] if number is None else number
    if settings is not None:
        named = [*given, *(["mode"] if mode is not None else [])]
        if named:
            raise SettingsError(f"{', '.join(named)} given beside --settings: put them there.")
        return _read_settings(settings)
    if not given and mode is None:
        return None
    return make_settings(default_mode if mode is None else mode, **given)


def _real(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


_NUMBERS: dict[str, tuple[Callable[[str], float | None], str]] = {
    "s": (whole, "whole number"),
    "d": (whole, "whole number"),
    "ratio": (_real, "number"),
}


def _parse_numbers(
    option: str, values: list[str], parse: Callable[[str], float | None], what: str
) -> float | dict[str, float]:
    """``["2"]`` as 2, ``["4", "layer1.*=2"]`` as a mapping, the number for all others last."""
    numbers: dict[str, float] = {}
    for value in values:
        pattern, _, text = value.rpartition("=")
        number = parse(text)
        if number is None:
            raise SettingsError(f"--{option}={value} is no {what}: give N or PATTERN=N.")
        if pattern in numbers:
            whom = f"for {pattern!r}" if pattern else "for all"
            raise SettingsError(f"--{option} is given twice {whom}: give it once.")
        numbers[pattern] = number
    rest = numbers.pop("", None)
    if rest is None:
        return numbers
    return {**numbers, "*": rest} if numbers else rest


def _read_settings(file: Path) -> Settings:
    from ghostify.settings import settings_from_yaml

    text = read_text(file, "give --settings a file of YAML or JSON", SettingsError)
    try:
        return settings_from_yaml(text)  # JSON is YAML too
    except SettingsError as error:
        raise InFileError(f"--settings {file}: {error}") from error
