"""Saving and loading a converted network: weights as safetensors, its making as YAML."""

from __future__ import annotations

import copy
import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ghostify import recipes
from ghostify._version import __version__
from ghostify.errors import GhostifyError, SavedFolderError, first_line
from ghostify.layouts import laid_out, usual
from ghostify.nn import GhostConv2d, GhostLinear
from ghostify.nn.order import make_room_for_order
from ghostify.passes.surgery import rewrite
from ghostify.provenance import Provenance, provenance_of, remember
from ghostify.recipes import SavedFolder

RECIPE = "recipe.yaml"
# What a save that was killed leaves, or a tuning that was stopped before its network was saved: no
# reason to refuse the folder to the next one.
_LEFTOVER = re.compile(r"\.[0-9a-f]{32}\.tmp|model-[0-9a-f]{8}\.safetensors|training")


def save(model: nn.Module, directory: Path, provenance: Provenance) -> Path:
    """Write a network into a folder.

    The weights get a name of their own and the recipe, which names them, is put into place last, by
    one rename: whenever a save is cut off, the folder is what it was, or is the new one.

    Raises:
        SavedFolderError: The folder can't be written, or holds other things.
    """
    _check_history(model, provenance)
    tensors = _tensors(model)
    with _explained(directory, "written"):
        check_target(directory)
        recipe = recipes.describe(model, provenance)
        with _folder(directory):
            old = _weights_named_in(directory)
            new = _write(tensors, recipe, directory)
        if old is not None and old != new:
            old.unlink(missing_ok=True)
    return directory


def read(directory: Path) -> SavedFolder:
    """Read and check a folder's recipe; no code is run and no weights are read.

    Raises:
        SavedFolderError: It is no saved network, a newer one, or not whole.
    """
    if not is_saved(directory):
        raise SavedFolderError(
            f"{directory} is no saved network (it has no {RECIPE}): "
            "give a folder that ghostify saved."
        )
    try:
        recipe = yaml.safe_load((directory / RECIPE).read_text(encoding="utf-8"))
        recipes.check_format(directory, recipe["format"])
        return recipes.parse(directory, recipe)
    except SavedFolderError:
        raise
    except GhostifyError as error:
        raise SavedFolderError(
            f"{directory / RECIPE} is damaged, or from another ghostify than {__version__}. {error}"
        ) from error
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, OSError, ValueError) as error:
        raise SavedFolderError(
            f"{directory / RECIPE} is damaged ({type(error).__name__}: {first_line(error)}): "
            "save the network again."
        ) from error


def is_saved(directory: Path) -> bool:
    """Whether a folder holds a saved network."""
    return (directory / RECIPE).is_file()


def restore(folder: SavedFolder, original: nn.Module) -> nn.Module:
    """The saved network, rebuilt from (a copy of) the original.

    Raises:
        SavedFolderError: The weights are damaged or missing, or don't fit the original.
    """
    if any(tensor.is_meta for tensor in original.state_dict().values()):
        raise SavedFolderError(
            f"{folder.directory} can't be loaded into a network on the meta device: "
            "give one whose tensors have data."
        )
    state = _read_weights(folder)
    network = original if folder.provenance.plans else copy.deepcopy(original)
    try:
        for plan in folder.provenance.plans:
            network = rewrite(network, plan)
    except GhostifyError as error:
        raise SavedFolderError(f"{folder.directory} doesn't fit this network. {error}") from error
    if folder.dtype is not None:
        network.to(folder.dtype)
    if folder.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _fill(network, state, folder)
    network.train(folder.training)
    for name, module in network.named_modules():
        if name in folder.exceptions:
            module.training = not folder.training
    remember(network, folder.provenance)
    return network


def _check_history(model: nn.Module, provenance: Provenance) -> None:
    """Raise where the network's history does not tell how to rebuild it."""
    if provenance.plans:
        return
    for name, module in model.named_modules():
        if name and provenance_of(module).plans:
            raise SavedFolderError(
                f"It is not this {type(model).__name__} that was converted, but its {name!r}: "
                f"save that, ghostify.save(model.{name}, ...)."
            )
        if isinstance(module, GhostConv2d | GhostLinear):
            raise SavedFolderError(
                f"{name or 'The network'!r} is a ghost module, and nothing says how it was made: "
                "save what ghostify.convert returned, or the state_dict alone."
            )


def _write(tensors: dict[str, Tensor], recipe: dict[str, Any], directory: Path) -> Path:
    """Write weights and recipe under temporary names and rename them; the path of the weights."""
    draft = directory / f".{uuid.uuid4().hex}.tmp"
    weights = None
    try:
        draft.touch()
        mode = draft.stat().st_mode
        save_file(tensors, draft, metadata={"format": "pt"})
        draft.chmod(mode)  # safetensors lets nobody but the owner read
        digest = _digest(draft)
        weights = directory / f"model-{digest[:8]}.safetensors"
        draft.replace(weights)
        text = recipes.to_yaml({**recipe, "weights": {"file": weights.name, "sha256": digest}})
        draft.write_text(text, encoding="utf-8")
        draft.replace(directory / RECIPE)
    except BaseException:
        draft.unlink(missing_ok=True)
        if weights is not None and weights != _weights_named_in(directory):
            weights.unlink(missing_ok=True)
        raise
    return weights


@contextmanager
def _folder(directory: Path) -> Iterator[None]:
    """Make a folder; remove what was made again where what is done inside fails."""
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for path in made:
                path.rmdir()
        raise


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state of a network, as safetensors takes it: contiguous, each with memory of its own."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, value in model.state_dict().items():
        if not isinstance(value, Tensor) or value.is_meta:
            raise SavedFolderError(
                f"{key!r} of this network is no tensor with data, and only those can be saved: "
                "leave it out of its state_dict."
            )
        tensor = value.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        tensors[key] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return tensors


def _read_weights(folder: SavedFolder) -> dict[str, Tensor]:
    try:
        digest = _digest(folder.weights)
        state = load_file(folder.weights)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch's own reader: RuntimeError
        raise SavedFolderError(
            f"{folder.weights} can't be read ({first_line(error)}): save the network again."
        ) from error
    if digest != folder.sha256:
        raise SavedFolderError(
            f"{folder.weights} is not what was saved (its checksum is another): "
            "save the network again."
        )
    return state


def _fill(network: nn.Module, state: Mapping[str, Tensor], folder: SavedFolder) -> None:
    """Copy the saved state into a network of the same structure, types included."""
    make_room_for_order(network, state)
    own = network.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    odd = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    wrong = [*missing, *unexpected, *odd]
    if wrong:
        raise SavedFolderError(
            f"{folder.directory} doesn't fit this network: {len(wrong)} keys are missing, too many "
            f"or of another shape ({', '.join(wrong[:3])}): give the original it was made from."
        )
    for key, tensor in own.items():
        # Through .data: a tied parameter stays one, and takes the type that was saved.
        saved = _as_it_lay(state[key].to(tensor.device), key, folder)
        strides = tensor.stride() if folder.strides is None else saved.stride()
        if tensor.dtype == saved.dtype and tensor.stride() == strides:
            tensor.copy_(saved)
        else:
            _set_data(network, key, saved)


def _as_it_lay(tensor: Tensor, key: str, folder: SavedFolder) -> Tensor:
    """A tensor with the strides that it was saved with."""
    if folder.strides is None:
        return tensor
    return laid_out(tensor, folder.strides.get(key) or usual(tensor.shape, folder.channels_last))


def _set_data(network: nn.Module, key: str, value: Tensor) -> None:
    path, _, name = key.rpartition(".")
    getattr(network.get_submodule(path), name).data = value


def check_target(directory: Path) -> None:
    """Raise unless a network can be saved there: a new folder, an empty one, or a saved network.

    Raises:
        SavedFolderError: It is a file, lies inside one, or holds other things.
    """
    if directory.exists() and not directory.is_dir():
        raise SavedFolderError(f"{directory} is a file: give a folder to save to.")
    if not directory.is_dir() or is_saved(directory):
        return
    if any(not _LEFTOVER.fullmatch(path.name) for path in directory.iterdir()):
        raise SavedFolderError(
            f"{directory} holds other things, and no saved network: give a new or empty folder."
        )


def _weights_named_in(directory: Path) -> Path | None:
    """The weights file of the network that a folder held so far."""
    if not is_saved(directory):
        return None
    try:
        return read(directory).weights
    except SavedFolderError:
        return None


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _explained(directory: Path, verb: str) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise SavedFolderError(
            f"{directory} can't be {verb} ({reason}): give a folder you may write to."
        ) from error
    except (TypeError, ValueError) as error:
        raise SavedFolderError(
            f"How this network was made can't be {verb} as data ({first_line(error)}): "
            "give model_args of plain numbers, texts, lists."
        ) from error
