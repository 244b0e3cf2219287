"""The order of a module's outputs, where it is not that of its concat: a buffer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn


@fx.wrap  # one node in a graph: what it asks of the tensor, a trace can't answer
def select_channels(maps: Tensor, order: Tensor, dim: int = -3) -> Tensor:
    """Channels in an order, in the memory format that the maps have.

    Where channels lie last in memory, `torch.index_select` gathers number by number and gives maps
    with channels first, which whatever follows turns back: a ResNet-50 of ghost modules took up to
    twice as long. There it is given rows of channels.

    Args:
        maps: ``(*, C, H, W)``, or with as many dimensions after the channels as ``dim`` says.
        order: Which channels, ``(K,)``
        dim: Where the channels are.

    Returns:
        ``(*, K, H, W)``
    """
    if maps.stride(dim) != 1:
        return maps.index_select(dim, order)
    last = maps.movedim(dim, -1)
    rows = last.reshape(-1, last.size(-1)).index_select(1, order)
    return rows.reshape(last.shape[:-1] + order.shape).movedim(-1, dim)


class Ordered(nn.Module):
    """A module with a buffer ``order``, None where the order of its outputs is the plain one.

    ``load_state_dict`` gives it the buffer where the state has one, and takes it where it has none.
    """

    if TYPE_CHECKING:  # hidden from torch.jit.script, which can't read it
        order: Tensor | None

    def _select(self, maps: Tensor, order: Tensor, dim: int = -3) -> Tensor:
        # Called from this module, where fx looks for what is wrapped.
        return select_channels(maps, order, dim)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any, **more: Any
    ) -> None:
        make_room_for_order(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest, **more)


def make_room_for_order(network: nn.Module, state: Mapping[str, Tensor], prefix: str = "") -> None:
    """Give ordered modules the ``order`` that a state has for them, or take it where it has none.

    Args:
        network: A network, or such a module; changed in place.
        state: What will be loaded.
        prefix: What precedes the network's own names in the state.
    """
    ordered = [(n, m) for n, m in network.named_modules() if isinstance(m, Ordered)]
    keys = _keys_by_tensor(network) if ordered else {}
    for name, module in ordered:
        saved = state.get(f"{prefix}{_place(name, module, keys)}order")
        device = next(module.parameters()).device
        module.order = None if saved is None else torch.empty_like(saved, device=device)


def _keys_by_tensor(network: nn.Module) -> dict[int, list[str]]:
    """The keys that a network's state has for each of its tensors."""
    try:
        state = network.state_dict(keep_vars=True)
    except TypeError:  # a state_dict of its own, without arguments
        return {}
    keys: dict[int, list[str]] = {}
    for key, tensor in state.items():
        keys.setdefault(id(tensor), []).append(key)
    return keys


def _place(name: str, module: nn.Module, keys: Mapping[int, Sequence[str]]) -> str:
    """What precedes a module's own names in the state; a network may call it otherwise there."""
    usual = f"{name}." if name else ""
    for inside, parameter in module.named_parameters():
        own = keys.get(id(parameter), [])
        if usual + inside not in own:
            found = [key.removesuffix(inside) for key in own if key.endswith(inside)]
            return found[0] if found else usual
    return usual
