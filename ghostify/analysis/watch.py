"""Looking at what the modules of a network put out."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ghostify.errors import GhostifyError, ModelError, SettingsError, nearest
from ghostify.graph.failure import describe_error
from ghostify.graph.meta_copy import copy_network
from ghostify.nn.ghost import GhostConv2d
from ghostify.numerics.finite import check_pixels

Watcher = Callable[[str, Tensor], None]
"""Takes a module's name and its output ``(N, C, H, W)``, which it must not keep: copy it."""


class Watched:
    """A copy of a network, in eval mode, whose modules' outputs can be looked at.

    Args:
        model: The network; it is not changed.

    Raises:
        ModelError: It can't be copied.
    """

    def __init__(self, model: nn.Module) -> None:
        try:
            self.model = copy_network(model).eval()
        except Exception as error:
            raise ModelError(
                f"The network can't be copied ({describe_error(error)}): make copy.deepcopy work."
            ) from error
        self.modules = dict(self.model.named_modules())

    def choose(self, patterns: Sequence[str]) -> list[str]:
        """Names of the modules that are meant, in network order.

        Raises:
            SettingsError: A pattern matches nothing.
        """
        if not patterns:
            return [name for name in self.modules if self._mixes_channels(name)]
        chosen: set[str] = set()
        for pattern in patterns:
            found = {n for n in self.modules if n and fnmatch.fnmatchcase(n, pattern)}
            if not found:
                raise SettingsError(
                    f"layer={pattern!r} matches no module{nearest(pattern, self.modules)}: "
                    "give a module's name or a glob pattern."
                )
            chosen |= found
        return [name for name in self.modules if name in chosen]

    def pair(self, first: str, last: str) -> tuple[str, str]:
        """First and last block, both of them there."""
        for name in (first, last):
            if name not in self.modules:
                raise SettingsError(
                    f"compare names {name!r}, which is no module{nearest(name, self.modules)}."
                )
        return first, last

    def _mixes_channels(self, name: str) -> bool:
        """Whether a module is a ghost module, or a convolution outside one and not depth-wise."""
        module = self.modules[name]
        if isinstance(module, GhostConv2d):
            return True
        parts = name.split(".")
        around = (self.modules[".".join(parts[:end])] for end in range(1, len(parts)))
        is_conv = isinstance(module, nn.Conv2d) and module.in_channels // module.groups > 1
        is_stem = isinstance(module, nn.Conv2d) and module.in_channels == 1
        return (is_conv or is_stem) and not any(isinstance(m, GhostConv2d) for m in around)

    def run(self, batch: Tensor, watchers: Mapping[str, Watcher]) -> None:
        """Send a batch through, and each output of the watched modules to its watcher.

        Raises:
            ModelError: The network can't take the batch.
        """
        parameter = next(self.model.parameters(), batch)
        with ExitStack() as hooks, torch.no_grad():
            for name, watcher in watchers.items():
                hook = _hook(name, watcher)
                hooks.callback(self.modules[name].register_forward_hook(hook).remove)
            try:
                self.model(batch.to(parameter.device, parameter.dtype))
            except GhostifyError:
                raise
            except Exception as error:
                shape = "x".join(map(str, batch.shape))
                raise ModelError(
                    f"The network can't take a batch of {shape}: {describe_error(error)}."
                ) from error

    def maps(self, batch: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """What the named modules put out for a batch, ``(N, C, H, W)`` each."""
        found: dict[str, Tensor] = {}
        self.run(batch, dict.fromkeys(names, lambda name, maps: found.update({name: maps.clone()})))
        return found


def first_tensors(batches: Iterable[Any]) -> Iterator[Tensor]:
    """The images of each batch: a tensor, or the first of what a DataLoader gives.

    Raises:
        GhostifyError: That is no ``(N, C, H, W)``.
    """
    names = getattr(batches, "paths", None)  # of image files, one a batch
    for place, batch in enumerate(batches):
        images = batch[0] if isinstance(batch, list | tuple) and len(batch) else batch
        if not isinstance(images, Tensor) or images.ndim != 4:
            shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise GhostifyError(f"An image batch is {shape}: give tensors (N, C, H, W) or files.")
        what = f"Batch {place}: image" if names is None else str(names[place])
        check_pixels(images, what, GhostifyError, places=names is None)
        yield images


def _hook(name: str, watcher: Watcher) -> Callable[[nn.Module, Any, Any], None]:
    def watch(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            watcher(name, output.detach().cpu())

    return watch
