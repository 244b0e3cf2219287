"""Base of the settings of all modes, and the checks of their values."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import yaml
from typing_extensions import Self

from ghostify.errors import SettingsError, nearest, shown
from ghostify.settings.selectors import Selector

if TYPE_CHECKING:
    from ghostify.settings.c_ghost import CGhost
    from ghostify.settings.g_ghost import GGhost

LARGEST = 2**63 - 1
"""The largest whole number that PyTorch takes, as a size or as a seed."""


@dataclass(frozen=True)
class Settings:
    """Base of the settings of all modes."""

    mode: ClassVar[str]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @property
    def layers(self) -> CGhost | None:
        """How single layers are converted; None where none are."""
        return None

    @property
    def stages(self) -> GGhost | None:
        """How stages are rebuilt; None where none are."""
        return None

    @classmethod
    def option_names(cls) -> list[str]:
        """The options that `from_options` knows."""
        return [field.name for field in dataclasses.fields(cls)]

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Settings from options by name."""
        return cls(**options)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `settings_from_dict` turns back into equal settings.

        Raises:
            SettingsError: A selector is a predicate, which is code and no data.
        """
        data: dict[str, Any] = {"mode": self.mode}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            data[field.name] = _plain(field.name, value)
        return data

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def to_yaml(self) -> str:
        """`to_dict` as YAML."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if not isinstance(value, tuple):
        return value
    if any(callable(selector) for selector in value):
        raise SettingsError(
            f"{name} holds a predicate, and code can't be written as data: give names or patterns."
        )
    return list(value)


def find_preset(kind: type[Settings], name: Any) -> Mapping[str, Any]:
    """The options that a preset stands for."""
    if not isinstance(name, str) or name not in kind.presets:
        raise SettingsError(
            f"preset={shown(name)} is no preset{nearest(str(name), kind.presets)}: "
            f"give one of {', '.join(kind.presets)}."
        )
    return kind.presets[name]


def selectors(option: str, value: Any) -> tuple[Selector, ...]:
    """One selector or several as a tuple, each checked to be one."""
    is_several = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
    found = tuple(value) if is_several else (value,)
    for selector in found:
        if not callable(selector) and not (isinstance(selector, str) and selector):
            raise SettingsError(
                f"{option}={shown(selector)} makes no sense: give a module name, a glob pattern, "
                '"stem", "head" or a predicate (name, module) -> bool.'
            )
    return found


def numbers(option: str, value: Any) -> list[Any]:
    """The numbers of an option that is one number, or pattern -> number."""
    if not isinstance(value, Mapping):
        return [value]
    if not value:
        raise SettingsError(f"{option} is an empty mapping: give a number, or pattern: number.")
    for pattern in value:
        if not isinstance(pattern, str):
            raise SettingsError(
                f"The pattern {shown(pattern)} of {option} is no text: quote it, as '{pattern}'."
            )
    return list(value.values())


def is_number(value: object) -> bool:
    """Whether a value is a whole or real number (True and False are none)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_number(option: str, value: Any, above: float, below: float) -> None:
    """Raise `SettingsError` unless the value is a number between two bounds."""
    if not is_number(value) or not above < value < below:  # NaN fails every comparison
        bounds = f"above {above}" if math.isinf(below) else f"between {above} and {below}"
        raise SettingsError(f"{option}={shown(value)} makes no sense: give a number {bounds}.")


def check_not_negative(option: str, value: Any, below: float) -> None:
    """Raise `SettingsError` unless the value is a number of 0 or more, below a bound."""
    if not is_number(value) or not 0 <= value < below:
        bounds = "of 0 or more" + ("" if math.isinf(below) else f" and below {below}")
        raise SettingsError(f"{option}={shown(value)} makes no sense: give a number {bounds}.")


def check_whole(option: str, value: Any, at_least: int, at_most: int = LARGEST) -> None:
    """Raise `SettingsError` unless the value is a whole number between two bounds, or one of them.

    What is larger than `LARGEST` is no number of channels, blocks or steps.
    """
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if is_whole and at_least <= value <= at_most:
        return
    has_end = at_most < LARGEST or (is_whole and value > at_most)
    bounds = f"from {at_least} to {at_most}" if has_end else f"of {at_least} or more"
    raise SettingsError(f"{option}={shown(value)} makes no sense: give a whole number {bounds}.")


def check_seed(option: str, value: Any) -> None:
    """Raise `SettingsError` unless the value is a whole number that PyTorch takes as a seed."""
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > LARGEST:
        raise SettingsError(
            f"{option}={shown(value)} makes no sense: give a whole number of at most 18 digits."
        )


def check_flag(option: str, value: Any) -> None:
    """Raise `SettingsError` unless the value is true or false."""
    if not isinstance(value, bool):
        raise SettingsError(f"{option}={shown(value)} makes no sense: give true or false.")


def check_choice(option: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise `SettingsError` unless the value is one of the choices."""
    if value not in choices or isinstance(value, bool):
        raise SettingsError(f"{option}={shown(value)} is none of {', '.join(map(str, choices))}.")
