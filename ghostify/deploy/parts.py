"""The parts of a converted network, each as a program of its own beside the original's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from ghostify.deploy.apart import MAKERS, Joined
from ghostify.deploy.maps_apart import whole_of
from ghostify.deploy.program import Program
from ghostify.plans import Plan

Parts = Mapping[str, Sequence[str]]
"""What a part is called, and the modules of a network that it is a plain succession of."""


def parts_of(plans: Sequence[Plan]) -> tuple[dict[str, Parts], list[str]]:
    """What the conversions of a network replaced, in the original and in the converted network.

    Returns:
        For each layer or stage the modules ``"before"`` and ``"after"``, and the names of the
        stages that are no plain succession of modules.
    """
    found: dict[str, Parts] = {}
    left: list[str] = []
    for stage in (stage for plan in plans for stage in plan.stages):
        if stage.functions is None:
            modules = [name for block in stage.blocks for name in block]
            found[stage.name] = {"before": modules, "after": [stage.place]}
        else:
            left.append(stage.name)
    for layer in (layer for plan in plans for layer in plan.replaced):
        found[layer.name] = {"before": [layer.name], "after": [layer.name]}
    return found, left


def programs_of(network: nn.Module, args: tuple[Any, ...], parts: Parts) -> dict[str, Program]:
    """Each part as a program, in calling order: its modules, and arguments like its first call's.

    A batch norm that reads a part alone and was not folded into it belongs to it: otherwise it
    would count on one side of a comparison only.

    Args:
        network: In its inference form.
        args: What it takes.
        parts: The parts by name; those that the network doesn't have are left out.
    """
    modules = dict(network.named_modules())
    known = {n: [modules[m] for m in own] for n, own in parts.items()
             if all(m in modules for m in own)}  # fmt: skip
    watch = _Watch(known)
    handles = watch.attach(network)
    try:
        with torch.no_grad():
            network(*args)
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: Program(_succession([*known[name], *watch.norms.get(name, ())]), _drawn(given))
        for name, given in watch.given.items()
    }


class _Watch:
    """Hooks that note what parts are given, and which norms read what they give."""

    def __init__(self, parts: Mapping[str, Sequence[nn.Module]]) -> None:
        self.firsts = {own[0]: name for name, own in parts.items()}
        self.lasts = {own[-1]: name for name, own in parts.items()}
        self.given: dict[str, Any] = {}
        self.norms: dict[str, list[nn.Module]] = {}
        self.latest: tuple[str, Any] = ("", None)

    def attach(self, network: nn.Module) -> list[Any]:
        handles = [layer.register_forward_pre_hook(self._enters) for layer in self.firsts]
        handles += [layer.register_forward_hook(self._leaves) for layer in self.lasts]
        norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
        return handles + [norm.register_forward_pre_hook(self._reads) for norm in norms]

    def _enters(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        self.given.setdefault(self.firsts[layer], pytree.tree_map(_shape_alone, args))

    def _leaves(self, layer: nn.Module, args: Any, output: Any) -> None:
        self.latest = (self.lasts[layer], output)

    def _reads(self, norm: nn.Module, args: tuple[Any, ...]) -> None:
        name, output = self.latest
        if name and args and args[0] is output:
            self.norms.setdefault(name, [norm])


def _succession(modules: Sequence[nn.Module]) -> nn.Module:
    is_apart = any(isinstance(part, MAKERS) for module in modules for part in module.modules())
    return nn.Sequential(*modules, *([Joined()] if is_apart else [])).eval()


def _shape_alone(leaf: Any) -> Any:
    """A tensor without its data (on its device's word): all parts' inputs would fill the memory."""
    leaf = whole_of(leaf)
    if not isinstance(leaf, Tensor):
        return leaf
    return _Shape(leaf.shape, leaf.dtype, leaf.device)


class _Shape:
    def __init__(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.dtype, self.device = shape, dtype, device

    def drawn(self) -> Tensor:
        if self.dtype.is_floating_point:
            return torch.rand(self.shape, device=self.device).to(self.dtype)
        return torch.zeros(self.shape, dtype=self.dtype, device=self.device)


def _drawn(args: Any) -> tuple[Any, ...]:
    drawn: tuple[Any, ...] = pytree.tree_map(
        lambda leaf: leaf.drawn() if isinstance(leaf, _Shape) else leaf, args
    )
    return drawn
