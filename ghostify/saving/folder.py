"""Saving and loading a converted network: weights as safetensors, its making as YAML."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ghostify._version import __version__
from ghostify.errors import GhostifyError, SavedFolderError, first_line, shown
from ghostify.files import check_folder, drafts, kind_of, list_folder, read_text, reading
from ghostify.files.plain_data import read_yaml
from ghostify.graph.failure import describe_error
from ghostify.graph.meta_copy import copy_network
from ghostify.nn import GhostLayer
from ghostify.nn.memory_format import to_channels_last
from ghostify.nn.order import make_room_for_order
from ghostify.passes.surgery import rewrite
from ghostify.saving import recipe as recipes
from ghostify.saving.card import CARD, is_untouched, put_card, write_card
from ghostify.saving.history import History, history_of, remember
from ghostify.saving.layouts import laid_out, usual
from ghostify.saving.recipe import SavedFolder

RECIPE = "recipe.yaml"
_WEIGHTS = re.compile(r"model-([0-9a-f]{8})\.safetensors")
# Of earlier versions: their own temporary names, and those of safetensors.
_DRAFT, _PARTIAL = re.compile(r"\.[0-9a-f]{32}\.tmp"), re.compile(r"\.tmp[0-9A-Za-z]{6}")
# What a save that was killed leaves, or a tuning that was stopped before its network was saved: no
# reason to refuse the folder to the next one.
_LEFTOVER = re.compile(
    "|".join(
        [_DRAFT.pattern, _PARTIAL.pattern, _WEIGHTS.pattern, "training", re.escape(drafts.PLACE)]
    )
)
READS = 20
"""How often a folder is read anew where another save takes its weights away meanwhile."""


def write_network(model: nn.Module, directory: Path, history: History) -> Path:
    """Write a network into a folder, and a model card beside it.

    The weights get a name of their own and the recipe, which names them, is put into place last, by
    one rename: whenever a save is cut off, the folder is what it was, or is the new one. What saves
    that were killed left behind is removed; a save waits for another one into the same folder.

    Raises:
        SavedFolderError: The folder can't be written, or holds other things.
        BusyError: Another process goes on writing into it.
    """
    _check_history(model, history)
    tensors = _tensors(model)
    with _explained(directory, "written"):
        check_target(directory)
        recipe = recipes.describe_network(model, history)
        with _folder(directory), drafts.alone_in(directory) as place:
            old = _weights_named_in(directory)
            if old is not None or not is_saved(directory):
                _sweep(directory, old)
            new = _write(tensors, recipe, history, directory, place)
            if old is not None and old != new:
                _remove(old)
            _sweep(directory, new)
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
        text = read_text(directory / RECIPE, "save the network again", SavedFolderError)
        recipe = read_yaml(text)
        recipes.check_format(directory, recipe["format"])
        return recipes.parse(directory, recipe)
    except SavedFolderError:
        raise
    except GhostifyError as error:
        raise SavedFolderError(
            f"{directory / RECIPE} is damaged, or from another ghostify than {__version__}. {error}"
        ) from error
    except (KeyError, TypeError, AttributeError, OSError, ValueError) as error:
        raise SavedFolderError(
            f"{directory / RECIPE} is damaged ({type(error).__name__}: {first_line(error)}): "
            "save the network again."
        ) from error


def read_whole(directory: Path) -> tuple[SavedFolder, dict[str, Tensor]]:
    """Read a folder's recipe and the weights of the same save, also while others save into it.

    Raises:
        SavedFolderError: It is no saved network, a newer one, or not whole.
    """
    for _ in range(READS):
        seen = _recipe_stamp(directory)
        folder = read(directory)
        try:
            return folder, _read_weights(folder)
        except SavedFolderError:
            if _recipe_stamp(directory) == seen:
                raise
    raise SavedFolderError(
        f"{directory} changes faster than it can be read: wait until nothing saves into it."
    )


def is_saved(directory: Path) -> bool:
    """Whether a folder holds a saved network."""
    return kind_of(directory / RECIPE, SavedFolderError) == "file"


def restore(
    folder: SavedFolder, original: nn.Module, state: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """The saved network, rebuilt from (a copy of) the original.

    Args:
        folder: What the recipe says.
        original: The network that was converted.
        state: The weights, where they have been read (`read_whole`).

    Raises:
        SavedFolderError: The weights are damaged or missing, or don't fit the original.
    """
    if any(tensor.is_meta for tensor in original.state_dict().values()):
        raise SavedFolderError(
            f"{folder.directory} can't be loaded into a network on the meta device: "
            "give one whose tensors have data."
        )
    state = _read_weights(folder) if state is None else state
    network = original if folder.history.plans else copy_network(original)
    try:
        for plan in folder.history.plans:
            network = rewrite(network, plan)
    except GhostifyError as error:
        raise SavedFolderError(f"{folder.directory} doesn't fit this network. {error}") from error
    except Exception as error:  # a plan that fits no network breaks the rewriting in any way
        raise SavedFolderError(
            f"{folder.directory} doesn't fit this network ({describe_error(error)}): "
            "give the original it was made from."
        ) from error
    unknown = set(folder.exceptions) - {name for name, _ in network.named_modules()}
    if unknown:
        raise SavedFolderError(
            f"{folder.directory} names the mode of {shown(min(unknown))}, which this network "
            "doesn't have: give the original it was made from."
        )
    if folder.dtype is not None:
        network.to(folder.dtype)
    if folder.channels_last:
        to_channels_last(network)
    _fill(network, state, folder)
    network.train(folder.training)
    for name, module in network.named_modules():
        if name in folder.exceptions:
            module.training = not folder.training
    remember(network, folder.history)
    return network


def _check_history(model: nn.Module, history: History) -> None:
    """Raise where the network's history does not tell how to rebuild it."""
    if history.plans:
        return
    for name, module in model.named_modules():
        if name and history_of(module).plans:
            raise SavedFolderError(
                f"It is not this {type(model).__name__} that was converted, but its {name!r}: "
                f"save that, ghostify.save(model.{name}, ...)."
            )
        if isinstance(module, GhostLayer):
            raise SavedFolderError(
                f"{name or 'The network'!r} is a ghost module, and nothing says how it was made: "
                "save what ghostify.convert returned, or the state_dict alone."
            )


def _write(
    tensors: dict[str, Tensor],
    recipe: dict[str, Any],
    history: History,
    directory: Path,
    place: Path,
) -> Path:
    """Write weights, recipe, card under temporary names and rename them; the weights' path."""
    draft, card = place / "draft", place / "card"
    weights = None
    try:
        draft.touch()
        mode = draft.stat().st_mode
        save_file(tensors, draft, metadata={"format": "pt"})
        draft.chmod(mode)  # safetensors lets nobody but the owner read
        digest = _digest(draft)
        weights = directory / f"model-{digest[:8]}.safetensors"
        said = write_card(history, weights.name)
        card.write_text(said, encoding="utf-8", errors="backslashreplace")
        drafts.put(draft, weights)
        text = recipes.to_yaml({**recipe, "weights": {"file": weights.name, "sha256": digest}})
        draft.write_text(text, encoding="utf-8")
        drafts.put(draft, directory / RECIPE)
        put_card(card, directory / CARD)
    except BaseException:
        if weights is not None and weights != _weights_named_in(directory):
            weights.unlink(missing_ok=True)
        raise
    return weights


def _sweep(directory: Path, named: Path | None) -> None:
    """Remove what killed saves left, those of earlier versions too: only what is surely theirs.

    Args:
        directory: A folder that nobody else is saving into.
        named: The weights that its recipe names.
    """
    for path in directory.iterdir():
        if path != named and path.is_file() and not path.is_symlink() and _is_left_over(path):
            _remove(path)


def _remove(path: Path) -> None:
    with suppress(PermissionError):  # Windows: somebody reads it; the next save removes it
        path.unlink(missing_ok=True)


def _is_left_over(path: Path) -> bool:
    if _DRAFT.fullmatch(path.name):
        return True
    if _PARTIAL.fullmatch(path.name):  # safetensors begin with the length of a header in braces
        with path.open("rb") as stream:
            return stream.read(9)[8:] in (b"{", b"")
    weights = _WEIGHTS.fullmatch(path.name)
    return weights is not None and _digest(path).startswith(weights[1])


def _recipe_stamp(directory: Path) -> tuple[int, int] | None:
    """A stamp that changes whenever a recipe is put into place."""
    try:
        found = (directory / RECIPE).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


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
        if not isinstance(value, Tensor) or is_lazy(value) or value.is_meta:
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
        with reading(folder.weights, "save the network again", SavedFolderError):
            digest = _digest(folder.weights)
            state = load_file(folder.weights)
    except (RuntimeError, SafetensorError) as error:  # torch's own reader: RuntimeError
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
    odd = [key for key in own.keys() & state.keys() if not _fits(state[key], own[key])]
    wrong = [*missing, *unexpected, *odd]
    if wrong:
        raise SavedFolderError(
            f"{folder.directory} doesn't fit this network: {len(wrong)} keys are missing, too many "
            f"or of another shape or kind ({', '.join(wrong[:3])}): "
            "give the original it was made from."
        )
    for key, tensor in own.items():
        # Through .data: a tied parameter stays one, and takes the type that was saved.
        saved = _as_it_lay(state[key].to(tensor.device), key, folder)
        strides = tensor.stride() if folder.strides is None else saved.stride()
        if tensor.dtype == saved.dtype and tensor.stride() == strides:
            tensor.copy_(saved)
        else:
            _set_data(network, key, saved)


def _fits(saved: Tensor, own: Tensor) -> bool:
    """Whether a saved tensor has the shape, and the kind of numbers, of the network's own."""
    is_real = saved.is_floating_point() and own.is_floating_point()
    return saved.shape == own.shape and (is_real or saved.dtype == own.dtype)


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
    kind = kind_of(directory, SavedFolderError)
    if kind in {"file", "other"}:
        raise SavedFolderError(f"{directory} is a file: give a folder to save to.")
    check_folder(directory, SavedFolderError)
    if kind == "nothing" or is_saved(directory):
        return
    held = list_folder(directory, SavedFolderError)
    if any(not (_LEFTOVER.fullmatch(path.name) or _is_card(path)) for path in held):
        raise SavedFolderError(
            f"{directory} holds other things, and no saved network: give a new or empty folder."
        )


def _is_card(path: Path) -> bool:
    return path.name == CARD and is_untouched(path)


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
