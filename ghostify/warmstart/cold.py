"""The cold start, kept for the layers whose fit gives no numbers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ghostify.graph.meta_copy import copy_network
from ghostify.nn import GGhostStage, GhostConv
from ghostify.nn.order import make_room_for_order
from ghostify.numerics.finite import non_finite
from ghostify.warmstart.fit.statistics import NotFiniteError


class ColdStart:
    """What a converted network was before any fit, for the parts whose fit fails.

    Args:
        network: The converted network.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        state = network.state_dict().items()
        # What a lazy layer has no shape for yet is fitted by nobody.
        self.state = {n: copy.deepcopy(value) for n, value in state if not is_lazy(value)}
        self.kept: list[str] = []

    @contextmanager
    def instead(self, name: str) -> Iterator[None]:
        """Where what is done inside fails for its numbers, a module keeps its cold start."""
        try:
            yield
        except (NotFiniteError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
            self.restore(name)

    def restore(self, name: str) -> None:
        """Give a module its cold start again, and remember that."""
        prefix = f"{name}." if name else ""
        own = {k.removeprefix(prefix): v for k, v in self.state.items() if k.startswith(prefix)}
        self.network.get_submodule(name).load_state_dict(own)
        self.kept.append(name)

    def restore_all(self) -> None:
        """Make the whole network what it was."""
        _load(self.network, self.state)

    def as_it_was(self) -> nn.Module:
        """A copy of the network as it was."""
        copied = copy_network(self.network).eval()
        _load(copied, self.state)
        return copied

    def mend(self) -> None:
        """Give every module in which a fit left a value that is not finite its cold start again."""
        bad = non_finite(self.network.state_dict().items())
        was_bad = set(non_finite((name, self.state[name]) for name in bad if name in self.state))
        for owner in dict.fromkeys(self._owner(name) for name in bad if name not in was_bad):
            self.restore(owner)

    def _owner(self, key: str) -> str:
        """The outermost ghost module or stage that a tensor is in; else the module that has it."""
        parts = key.split(".")[:-1]
        for end in range(len(parts)):
            name = ".".join(parts[: end + 1])
            if isinstance(self.network.get_submodule(name), GhostConv | GGhostStage):
                return name
        return ".".join(parts)

    def ghosts(self) -> set[str]:
        """Names of the ghost modules that kept it."""
        modules = {name: self.network.get_submodule(name) for name in self.kept}
        return {name for name, module in modules.items() if isinstance(module, GhostConv)}

    def notes(self) -> list[str]:
        """What a reader must know of it."""
        names = list(dict.fromkeys(self.kept))
        if not names:
            return []
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        return [
            f"not fitted, and as the conversion left them, because their fit gives values that are "
            f"not finite: {shown} ({len(names)} in all)"
        ]


def _load(network: nn.Module, state: dict[str, Tensor]) -> None:
    make_room_for_order(network, state)
    network.load_state_dict(state, strict=False)  # lazy layers without a shape have no state
