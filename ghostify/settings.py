"""Settings as data: a class for each mode, which goes to YAML or JSON and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import yaml

from ghostify.errors import SettingsError, nearest
from ghostify.nn.ghost import BiasMode, InitMode, check_s_d
from ghostify.selection import Selector

DEFAULT_S = 2
DEFAULT_D = 3


@dataclass(frozen=True)
class Settings:
    """What the settings of all modes have in common."""

    mode: ClassVar[str]

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


@dataclass(frozen=True)
class CGhost(Settings):
    """Settings of C-Ghost (Section 3): each convolution becomes a ghost module.

    Attributes:
        s: How many feature maps come of each intrinsic one; a number, or pattern -> number (the
            first pattern that matches a layer holds, others have 2).
        d: Kernel size of the cheap operation, odd; a number or pattern -> number (others have 3).
        keep: Layers to leave as they are: names, glob patterns, "stem", "head", predicates.
        only: If given, only these layers are converted.
        linear: Whether `torch.nn.Linear` layers become 1x1 ghost modules too.
        bias_mode: Of a layer with biases, ``"full"``: all outputs keep theirs; ``"primary"``: the
            intrinsic ones only (the paper's cheap operation has none).
        init: How the cheap operations start: ``"projection"`` from the weights they replace,
            ``"random"`` drawn as PyTorch does.
        seed: For ``init="random"``.

    Raises:
        SettingsError: A value makes no sense.

    Example:
        >>> settings = CGhost(s={"layer1": 2, "*": 4}, keep="stem")
        >>> settings_from_dict(settings.to_dict()) == settings
        True
    """

    mode: ClassVar[str] = "c-ghost"

    s: int | Mapping[str, int] = DEFAULT_S
    d: int | Mapping[str, int] = DEFAULT_D
    keep: tuple[Selector, ...] | Selector = ()
    only: tuple[Selector, ...] | Selector = ()
    linear: bool = False
    bias_mode: BiasMode = "full"
    init: InitMode = "projection"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("keep", "only"):
            object.__setattr__(self, name, _selectors(name, getattr(self, name)))
        for value in _numbers("s", self.s):
            check_s_d(value, DEFAULT_D)
        for value in _numbers("d", self.d):
            check_s_d(DEFAULT_S, value)
        if not isinstance(self.linear, bool):
            raise SettingsError(f"linear={self.linear!r} makes no sense: give true or false.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise SettingsError(f"seed={self.seed!r} makes no sense: give a whole number.")
        _check_choice("bias_mode", self.bias_mode, get_args(BiasMode))
        _check_choice("init", self.init, get_args(InitMode))


MODES: dict[str, type[Settings]] = {CGhost.mode: CGhost}
"""The settings class of each mode; a new mode is one more entry."""


def make_settings(mode: str, **options: Any) -> Settings:
    """The settings of a mode from its name and options.

    Raises:
        SettingsError: An unknown mode or option, or a value that makes no sense.
    """
    if mode not in MODES:
        raise SettingsError(
            f"mode={mode!r} is no mode{nearest(str(mode), MODES)}: give one of {', '.join(MODES)}."
        )
    kind = MODES[mode]
    known = [field.name for field in dataclasses.fields(kind)]
    for name in options:
        if name not in known:
            raise SettingsError(
                f"{name!r} is no setting of {mode}{nearest(name, known)}: "
                f"it has {', '.join(known)}."
            )
    return kind(**options)


def settings_from_dict(data: Mapping[str, Any]) -> Settings:
    """Settings from what `Settings.to_dict` gave.

    Raises:
        SettingsError: The data is no settings, or a value makes no sense.
    """
    if not isinstance(data, Mapping) or any(not isinstance(name, str) for name in data):
        raise SettingsError(f"{data!r} are no settings: give names and values, like s: 2.")
    options = {name: _frozen(value) for name, value in data.items() if name != "mode"}
    return make_settings(data.get("mode", CGhost.mode), **options)


def settings_from_json(text: str) -> Settings:
    """Settings from what `Settings.to_json` gave; raises as `settings_from_dict`."""
    try:
        return settings_from_dict(json.loads(text))
    except json.JSONDecodeError as error:
        raise SettingsError(f"The settings are no JSON ({error}): see Settings.to_json.") from error


def settings_from_yaml(text: str) -> Settings:
    """Settings from what `Settings.to_yaml` gave; raises as `settings_from_dict`."""
    try:
        return settings_from_dict(yaml.safe_load(text))
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise SettingsError(
            f"The settings are no YAML ({reason}): see Settings.to_yaml."
        ) from error


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


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _selectors(option: str, value: Any) -> tuple[Selector, ...]:
    is_several = isinstance(value, Iterable) and not isinstance(value, str)
    selectors = tuple(value) if is_several else (value,)
    for selector in selectors:
        if not callable(selector) and not (isinstance(selector, str) and selector):
            raise SettingsError(
                f"{option}={selector!r} makes no sense: give a module name, a glob pattern, "
                '"stem", "head" or a predicate (name, module) -> bool.'
            )
    return selectors


def _numbers(option: str, value: Any) -> list[int]:
    if not isinstance(value, Mapping):
        return [value]
    if not value:
        raise SettingsError(f"{option} is an empty mapping: give a number, or pattern: number.")
    for pattern in value:
        if not isinstance(pattern, str):
            raise SettingsError(
                f"The pattern {pattern!r} of {option} is no text: quote it, as '{pattern}'."
            )
    return list(value.values())


def _check_choice(option: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SettingsError(f"{option}={value!r} is none of {', '.join(choices)}.")
