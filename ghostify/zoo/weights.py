"""Trained weights from a safetensors file or a checkpoint, whatever they are wrapped in."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ghostify.errors import WeightsError, first_line
from ghostify.files import kind_of, reading

# Where checkpoints keep the weights, averaged ones first: those are what their authors evaluate.
WRAPPINGS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model_state_dict", "model", "net")


@runtime_checkable
class HasAliases(Protocol):
    """A network whose checkpoints elsewhere have other keys."""

    def key_aliases(self) -> dict[str, str]:
        """Key in such a checkpoint -> key of the network."""
        ...


def load_weights(model: nn.Module, weights: str | Path) -> None:
    """Load a file's weights into a network of the same structure, strictly.

    Args:
        model: The network; it is not touched unless all of it fits.
        weights: A ``.safetensors`` file, or a checkpoint that ``torch.load(weights_only=True)``
            reads. What wraps the weights (``state_dict``, ...) and what precedes their names
            (``module.``, ...) is taken off.

    Raises:
        WeightsError: The file can't be read, or doesn't fit (which keys).
    """
    path = Path(weights)
    wanted = model.state_dict()
    aliases = model.key_aliases() if isinstance(model, HasAliases) else {}
    known = wanted.keys() | aliases.keys()
    candidates = [
        _with_own_names(_without_prefixes(state, known), aliases) for state in _states(_read(path))
    ]
    if not candidates:
        raise WeightsError(f"{path} holds no weights: give a state_dict saved as safetensors.")
    best = min(candidates, key=lambda state: len(_misfits(state, wanted)))
    misfits = _misfits(best, wanted)
    if misfits:
        shown = "; ".join(misfits[:3])
        raise WeightsError(
            f"{path} doesn't fit the network, {len(misfits)} keys differ ({shown}"
            f"{'; ...' if len(misfits) > 3 else ''}): give the weights of this very network."
        )
    try:
        model.load_state_dict(best, strict=False)  # strict but for those counters: checked above
    except (RuntimeError, NotImplementedError) as error:  # sparse, or on the meta device
        raise WeightsError(
            f"The values of {path} can't be copied into the network "
            f"({first_line(error).rstrip(':. ')}): give dense tensors with data."
        ) from error


def _read(path: Path) -> Any:
    advice = "give a safetensors file or a checkpoint"
    if kind_of(path, WeightsError) == "nothing":
        raise WeightsError(f"{path} is no file: {advice}.")
    try:
        with reading(path, advice, WeightsError):
            if path.suffix == ".safetensors":
                return load_file(path)
            return torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than weights, and loading it would run code: "
            "save its state_dict as safetensors."
        ) from error
    except Exception as error:  # bytes that are no checkpoint break the reader in any way
        reason = first_line(error) or type(error).__name__
        raise WeightsError(f"{path} can't be read as weights ({reason}): {advice}.") from error


def _states(content: Any) -> Iterator[dict[str, Tensor]]:
    """The state dicts in a file's content: inside its wrappings first, then itself."""
    if not isinstance(content, Mapping):
        return
    for wrapping in WRAPPINGS:
        if isinstance(content.get(wrapping), Mapping):
            yield from _states(content[wrapping])
    state = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if state:
        yield state


def _without_prefixes(state: dict[str, Tensor], wanted: Set[str]) -> dict[str, Tensor]:
    """The state with what precedes all its keys taken off, until one of them is the network's."""
    stripped = state
    while not stripped.keys() & wanted:
        parts = {key.partition(".")[0] for key in stripped}
        if len(parts) != 1 or not all("." in key for key in stripped):
            return state
        stripped = {key.partition(".")[2]: value for key, value in stripped.items()}
    return stripped


def _with_own_names(state: dict[str, Tensor], aliases: Mapping[str, str]) -> dict[str, Tensor]:
    return {aliases.get(key, key): value for key, value in state.items()}


def _misfits(state: Mapping[str, Tensor], wanted: Mapping[str, Any]) -> list[str]:
    """Reasons why a state does not fit, key by key."""
    # Checkpoints from before 2018 lack the counters of batch norms, which nothing depends on.
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in wanted]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    return [
        *(f"{k} is missing" for k in missing),
        *(f"{k} is too much" for k in unexpected),
        *shapes,
    ]
