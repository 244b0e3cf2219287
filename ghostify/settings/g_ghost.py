"""Settings of G-Ghost, and the paper's three families of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from ghostify.nn.g_ghost import Cheap, Entry, MixFrom
from ghostify.settings.base import (
    Settings,
    check_choice,
    check_flag,
    check_number,
    check_whole,
    find_preset,
    numbers,
    selectors,
)
from ghostify.settings.selectors import Selector

DEFAULT_RATIO = 0.5
MOST_GROUP_WIDTH = 1000

Tail = Literal["full", "thin"]
MixOption = Literal["fc", "mlp", "none"]


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
        entry: ``"slice"``: the thin path takes some channels of Y1, the cheap operation the
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
            object.__setattr__(self, name, selectors(name, getattr(self, name)))
        for value in numbers("ratio", self.ratio):
            check_number("ratio", value, above=0, below=1)
        check_number("group_width", self.group_width, above=0, below=MOST_GROUP_WIDTH)
        check_whole("min_blocks", self.min_blocks, at_least=2 if self.tail == "thin" else 3)
        check_whole("divisor", self.divisor, at_least=1)
        check_flag("ghost_act", self.ghost_act)
        for option, kind in (
            ("entry", Entry), ("tail", Tail), ("cheap", Cheap), ("mix", MixOption),
            ("mix_from", MixFrom),
        ):  # fmt: skip
            check_choice(option, getattr(self, option), get_args(kind))

    @property
    def stages(self) -> GGhost:
        """These settings."""
        return self

    @classmethod
    def preset(cls, name: str, **changes: Any) -> GGhost:
        """The settings of one of the paper's families of experiments.

        Args:
            name: ``"cifar"`` (Tables 11-14), ``"resnet"`` (Table 15), ``"regnet"`` (Tables 17-18).
            **changes: Settings that differ from the preset.
        """
        return cls(**{**find_preset(cls, name), **changes})
