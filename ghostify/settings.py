"""Settings as data: a class for each mode, which goes to YAML or JSON and back."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import yaml

from ghostify.errors import SettingsError, nearest
from ghostify.nn.g_ghost import Cheap, Entry, MixFrom
from ghostify.nn.ghost import BiasMode, InitMode, check_s_d
from ghostify.selection import Selector

DEFAULT_S = 2
DEFAULT_D = 3
DEFAULT_RATIO = 0.5

Tail = Literal["full", "thin"]
MixOption = Literal["fc", "mlp", "none"]


@dataclass(frozen=True)
class Settings:
    """What the settings of all modes have in common."""

    mode: ClassVar[str]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

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


@dataclass(frozen=True)
class GGhost(Settings):
    """Settings of G-Ghost (Section 4): each stage of several blocks becomes a G-Ghost stage.

    The defaults are those of the paper's ResNet34 (Table 15); `GGhost.preset` has the others.

    Attributes:
        ratio: The paper's lambda, the share of a stage's channels that are ghosts; a number, or
            pattern -> number (the first pattern that matches a stage holds, others have 0.5).
        keep: Stages to leave as they are: names, glob patterns, predicates on the first block.
        only: If given, only these stages are rebuilt.
        min_blocks: Stages of fewer blocks are left.
        entry: ``"slice"``: the thin path takes the first channels of Y1, the cheap operation the
            others; ``"project"``: both take all of Y1.
        tail: ``"full"``: the concat comes before the last block, which stays as wide as it was (as
            in the experiments); ``"thin"``: all blocks but the first are thin (Eq. 8-10).
        cheap: Kernel size of the cheap operation; ``"identity"``: ghosts are channels of Y1;
            ``"none"``: there are none, the last thin block makes all channels.
        mix: ``"fc"`` (Eq. 12), ``"mlp"`` (two 1x1 convolutions, as for RegNet) or ``"none"``.
        mix_from: What the mix pools: ``"all"`` of Y1 and the thin blocks' outputs, or ``"thin"``.
        ghost_act: Whether a ReLU follows the cheap operation and the mix.
        group_width: What the width of a thin block's groups is multiplied by.
        divisor: The thin widths are multiples of it.

    Raises:
        SettingsError: A value makes no sense.

    Example:
        >>> GGhost.preset("regnet").group_width
        0.75
    """

    mode: ClassVar[str] = "g-ghost"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cifar": {"entry": "project", "mix_from": "thin"},
        "resnet": {},
        "regnet": {"mix": "mlp", "ghost_act": True, "group_width": 0.75},
    }

    ratio: float | Mapping[str, float] = DEFAULT_RATIO
    keep: tuple[Selector, ...] | Selector = ()
    only: tuple[Selector, ...] | Selector = ()
    min_blocks: int = 3
    entry: Entry = "slice"
    tail: Tail = "full"
    cheap: Cheap = 1
    mix: MixOption = "fc"
    mix_from: MixFrom = "all"
    ghost_act: bool = False
    group_width: float = 1.0
    divisor: int = 1

    def __post_init__(self) -> None:
        if self.mix is None:
            object.__setattr__(self, "mix", "none")
        for name in ("keep", "only"):
            object.__setattr__(self, name, _selectors(name, getattr(self, name)))
        for value in _numbers("ratio", self.ratio):
            _check_number("ratio", value, above=0, below=1)
        _check_number("group_width", self.group_width, above=0, below=math.inf)
        _check_whole("min_blocks", self.min_blocks, at_least=2 if self.tail == "thin" else 3)
        _check_whole("divisor", self.divisor, at_least=1)
        for option, kind in (
            ("entry", Entry), ("tail", Tail), ("cheap", Cheap), ("mix", MixOption),
            ("mix_from", MixFrom),
        ):  # fmt: skip
            _check_choice(option, getattr(self, option), get_args(kind))

    @classmethod
    def preset(cls, name: str, **changes: Any) -> GGhost:
        """The settings of one of the paper's families of experiments.

        Args:
            name: ``"cifar"`` (Tables 11-14), ``"resnet"`` (Table 15), ``"regnet"`` (Tables 17-18).
            **changes: Settings that differ from the preset.
        """
        return cls(**{**_preset(cls, name), **changes})


@dataclass(frozen=True)
class CGGhost(Settings):
    """Both modes: G-Ghost stages, and C-Ghost modules in what G-Ghost left.

    Attributes:
        g: Settings of the stages.
        c: Settings of the layers outside rebuilt stages.

    Example:
        >>> both = make_settings("cg-ghost", ratio=0.4, s=4)
        >>> both.g.ratio, both.c.s
        (0.4, 4)
    """

    mode: ClassVar[str] = "cg-ghost"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = GGhost.presets

    g: GGhost = GGhost()
    c: CGhost = CGhost()

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `settings_from_dict` turns back into equal settings."""
        return {"mode": self.mode, "g": self.g.to_dict(), "c": self.c.to_dict()}

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> CGGhost:
        """Settings from the options of both modes; ``keep`` is for both, ``only`` for stages."""
        stages, layers = _field_names(GGhost), _field_names(CGhost)
        g = {name: value for name, value in options.items() if name in stages}
        c = {name: value for name, value in options.items() if name in layers and name != "only"}
        return cls(GGhost(**g), CGhost(**c))


MODES: dict[str, type[Settings]] = {kind.mode: kind for kind in (CGhost, GGhost, CGGhost)}
"""The settings class of each mode; a new mode is one more entry."""


def make_settings(mode: str, **options: Any) -> Settings:
    """The settings of a mode from its name and options.

    Args:
        mode: One of `MODES`.
        **options: Settings of the mode; ``preset`` names a set of them that the others change.

    Raises:
        SettingsError: An unknown mode or option, or a value that makes no sense.
    """
    if mode not in MODES:
        raise SettingsError(
            f"mode={mode!r} is no mode{nearest(str(mode), MODES)}: give one of {', '.join(MODES)}."
        )
    kind = MODES[mode]
    if "preset" in options and kind.presets:
        name = options.pop("preset")
        options = {**_preset(kind, name), **options}
    known = _field_names(kind)
    if kind is CGGhost and "g" not in options and "c" not in options:
        known = [*dict.fromkeys([*_field_names(GGhost), *_field_names(CGhost)])]
    for name in options:
        if name not in known:
            raise SettingsError(
                f"{name!r} is no setting of {mode}{nearest(name, known)}: "
                f"it has {', '.join(known)}."
            )
    if kind is CGGhost and "g" not in options and "c" not in options:
        return CGGhost.from_options(options)
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
    if isinstance(value, Mapping) and "mode" in value:
        return settings_from_dict(value)
    return tuple(value) if isinstance(value, list) else value


def _field_names(kind: type[Settings]) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _preset(kind: type[Settings], name: Any) -> Mapping[str, Any]:
    if name not in kind.presets:
        raise SettingsError(
            f"preset={name!r} is no preset{nearest(str(name), kind.presets)}: "
            f"give one of {', '.join(kind.presets)}."
        )
    return kind.presets[name]


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


def _numbers(option: str, value: Any) -> list[Any]:
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


def _check_number(option: str, value: Any, above: float, below: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not above < value < below:  # NaN fails every comparison
        bounds = f"above {above}" if math.isinf(below) else f"between {above} and {below}"
        raise SettingsError(f"{option}={value!r} makes no sense: give a number {bounds}.")


def _check_whole(option: str, value: Any, at_least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise SettingsError(
            f"{option}={value!r} makes no sense: give a whole number of {at_least} or more."
        )


def _check_choice(option: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices or isinstance(value, bool):
        raise SettingsError(f"{option}={value!r} is none of {', '.join(map(str, choices))}.")
