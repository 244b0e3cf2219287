"""Settings of C-Ghost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, get_args

from ghostify.nn.ghost import BiasMode, InitMode, check_s_d
from ghostify.settings.base import (
    Settings,
    check_choice,
    check_flag,
    check_seed,
    check_whole,
    numbers,
    selectors,
)
from ghostify.settings.selectors import Selector

DEFAULT_S = 2
DEFAULT_D = 3


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
        costlier: Whether layers are converted too whose ghost module costs as much or more (as in
            Table 5, where VGG16's first convolution is converted even with d=7).
        divisor: The intrinsic maps of a layer are a multiple of it, rounded up, where that leaves
            ghosts to make: widths of whole blocks (8, 16) are faster in most runtimes.
        bias_mode: Of a layer with biases, ``"full"``: all outputs keep theirs; ``"primary"``: the
            intrinsic ones only (the paper's cheap operation has none).
        init: How the cheap operations start: ``"projection"`` from the weights they replace,
            ``"random"`` drawn as PyTorch does.
        seed: For ``init="random"``.

    Raises:
        SettingsError: A value makes no sense.

    Example:
        >>> from ghostify.settings import settings_from_dict
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
    costlier: bool = False
    divisor: int = 1
    bias_mode: BiasMode = "full"
    init: InitMode = "projection"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("keep", "only"):
            object.__setattr__(self, name, selectors(name, getattr(self, name)))
        for value in numbers("s", self.s):
            check_s_d(value, DEFAULT_D)
        for value in numbers("d", self.d):
            check_s_d(DEFAULT_S, value)
        for name in ("linear", "costlier"):
            check_flag(name, getattr(self, name))
        check_whole("divisor", self.divisor, at_least=1)
        check_seed("seed", self.seed)
        check_choice("bias_mode", self.bias_mode, get_args(BiasMode))
        check_choice("init", self.init, get_args(InitMode))

    @property
    def layers(self) -> CGhost:
        """These settings."""
        return self
