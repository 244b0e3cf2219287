"""The cold start, kept for the layers that can't be fitted."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ghostify.data.gathering import REFUSALS
from ghostify.graph.failure import describe_error
from ghostify.graph.meta_copy import copy_network
from ghostify.nn import GGhostStage
from ghostify.nn.ghost import PairedGhost
from ghostify.nn.order import make_room_for_order
from ghostify.numerics.finite import non_finite
from ghostify.warmstart.fit.statistics import NotFiniteError

NO_NUMBERS = (NotFiniteError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]
FAILURES: tuple[type[Exception], ...] = (*NO_NUMBERS, *REFUSALS)
"""What ends the fit of one part alone: a network may do what no fit was made for."""

NOT_FINITE = "their fit gives values that are not finite"


class UnlikeNetworksError(ValueError):
    """A layer gets other samples, or is called at other times, in the two networks."""


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
        self.kept: dict[str, str] = {}

    @contextmanager
    def instead(self, name: str) -> Iterator[None]:
        """Where what is done inside fails, a module keeps its cold start."""
        with self.instead_of([name]):
            yield

    @contextmanager
    def instead_of(self, names: Iterable[str]) -> Iterator[None]:
        """The same for several modules; which ones is asked when it fails."""
        try:
            yield
        except FAILURES as error:
            for name in names:
                self.restore(name, _reason(error))

    def restore(self, name: str, reason: str = NOT_FINITE) -> None:
        """Give a module its cold start again, and remember why."""
        prefix = f"{name}." if name else ""
        own = {k.removeprefix(prefix): v for k, v in self.state.items() if k.startswith(prefix)}
        self.network.get_submodule(name).load_state_dict(own)
        self.kept.setdefault(name, reason)

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
            if isinstance(self.network.get_submodule(name), PairedGhost | GGhostStage):
                return name
        return ".".join(parts)

    def ghosts(self) -> set[str]:
        """Names of the ghost modules that kept it."""
        modules = {name: self.network.get_submodule(name) for name in self.kept}
        return {name for name, module in modules.items() if isinstance(module, PairedGhost)}

    def notes(self) -> list[str]:
        """What a reader must know of it."""
        return [
            f"not fitted, and as the conversion left them, because {reason}: "
            f"{_shown([n for n, own in self.kept.items() if own == reason])}"
            for reason in dict.fromkeys(self.kept.values())
        ]


def _reason(error: Exception) -> str:
    if isinstance(error, NO_NUMBERS):
        return NOT_FINITE
    if isinstance(error, UnlikeNetworksError):
        return str(error)
    return f"their fit fails ({describe_error(error)})"


def _shown(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''} ({len(names)} in all)"


def _load(network: nn.Module, state: dict[str, Tensor]) -> None:
    make_room_for_order(network, state)
    network.load_state_dict(state, strict=False)  # lazy layers without a shape have no state
