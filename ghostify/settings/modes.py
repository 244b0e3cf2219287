"""The modes by name, and settings from names and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from typing_extensions import Self

from ghostify.errors import SettingsError, nearest, shown
from ghostify.files.plain_data import UnreadableError, read_json, read_yaml
from ghostify.settings.base import Settings, find_preset
from ghostify.settings.c_ghost import CGhost
from ghostify.settings.g_ghost import GGhost


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

    g: GGhost = field(default_factory=GGhost)
    c: CGhost = field(default_factory=CGhost)

    def __post_init__(self) -> None:
        for part, kind in _PARTS.items():
            value = getattr(self, part)
            if not isinstance(value, kind):
                raise SettingsError(
                    f"{part}={shown(value)} makes no sense in {self.mode}: "
                    f"give settings of {kind.mode}."
                )

    @property
    def layers(self) -> CGhost:
        """Those of the layers outside rebuilt stages."""
        return self.c

    @property
    def stages(self) -> GGhost:
        """Those of the stages."""
        return self.g

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `settings_from_dict` turns back into equal settings."""
        return {"mode": self.mode, **{part: getattr(self, part).to_dict() for part in _PARTS}}

    @classmethod
    def option_names(cls) -> list[str]:
        """The options of both modes."""
        return [*dict.fromkeys([*GGhost.option_names(), *CGhost.option_names()])]

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Settings from the options of both modes.

        ``keep`` and ``divisor`` are for both, ``only`` is for stages.
        """
        stages, layers = GGhost.option_names(), set(CGhost.option_names()) - {"only"}
        return cls(
            GGhost(**{name: value for name, value in options.items() if name in stages}),
            CGhost(**{name: value for name, value in options.items() if name in layers}),
        )


_PARTS: dict[str, type[Settings]] = {"g": GGhost, "c": CGhost}


@dataclass(frozen=True)
class Auto(CGGhost):
    """Part by part the mode that loses least, or nothing: chosen by a target or by the clock.

    ``keep`` and ``only`` are for stages and layers.

    Attributes:
        g: Settings of the stages; where a target is given, it chooses their ratios.
        c: Settings of the layers; where a target is given, it chooses their s.

    Example:
        >>> make_settings("auto", keep="stem").c.keep
        ('stem',)
    """

    mode: ClassVar[str] = "auto"

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Settings from the options of both modes; ``keep``, ``only``, ``divisor`` are for both."""
        both = super().from_options(options)
        return replace(both, c=replace(both.c, only=both.g.only))


MODES: dict[str, type[Settings]] = {kind.mode: kind for kind in (CGhost, GGhost, CGGhost, Auto)}
"""The settings class of each mode; a new mode is one more entry."""


def make_settings(mode: str, **options: Any) -> Settings:
    """The settings of a mode from its name and options.

    Args:
        mode: One of `MODES`.
        **options: Settings of the mode; ``preset`` names a set of them that the others change.

    Raises:
        SettingsError: An unknown mode or option, or a value that makes no sense.
    """
    if not isinstance(mode, str) or mode not in MODES:
        hint = nearest(mode, MODES) if isinstance(mode, str) else ""
        raise SettingsError(f"mode={shown(mode)} is no mode{hint}: give one of {', '.join(MODES)}.")
    kind = MODES[mode]
    if "preset" in options and kind.presets:
        name = options.pop("preset")
        options = {**find_preset(kind, name), **options}
    known = kind.option_names()
    for name in options:
        if name not in known:
            raise SettingsError(
                f"{shown(name)} is no setting of {mode}{nearest(name, known)}: "
                f"it has {', '.join(known)}."
            )
    return kind.from_options(options)


def settings_from_dict(data: Mapping[str, Any]) -> Settings:
    """Settings from what `Settings.to_dict` gave.

    Raises:
        SettingsError: The data is no settings, or a value makes no sense.
    """
    if not isinstance(data, Mapping) or any(not isinstance(name, str) for name in data):
        raise SettingsError(f"{shown(data)} are no settings: give names and values, like s: 2.")
    mode = data.get("mode", CGhost.mode)
    rest = {k: v if k == "preset" else _frozen(v) for k, v in data.items() if k != "mode"}
    kind = MODES.get(mode) if isinstance(mode, str) else None
    if kind is not None and issubclass(kind, CGGhost) and rest and rest.keys() <= _PARTS.keys():
        return kind(**{part: _part(part, value) for part, value in rest.items()})
    return make_settings(mode, **rest)


def _part(name: str, data: Any) -> Any:
    """The settings of one of the modes in cg-ghost, which needs not be named again."""
    if not isinstance(data, Mapping):
        raise SettingsError(f"{name}={shown(data)} are no settings: give names and values.")
    return settings_from_dict({"mode": _PARTS[name].mode, **data})


def settings_from_json(text: str) -> Settings:
    """Settings from what `Settings.to_json` gave; raises as `settings_from_dict`."""
    try:
        return settings_from_dict(read_json(text))
    except UnreadableError as error:
        raise SettingsError(f"The settings are no JSON ({error}): see Settings.to_json.") from error


def settings_from_yaml(text: str) -> Settings:
    """Settings from what `Settings.to_yaml` gave; raises as `settings_from_dict`."""
    try:
        return settings_from_dict(read_yaml(text))
    except UnreadableError as error:
        raise SettingsError(f"The settings are no YAML ({error}): see Settings.to_yaml.") from error


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
