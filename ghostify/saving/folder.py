"""Saving and loading a converted network: weights as safetensors, its making as YAML."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ghostify._version import __version__
from ghostify.errors import GhostifyError, SavedFolderError, first_line, shown
from ghostify.files import check_folder, drafts, kind_of, list_folder, read_text
from ghostify.files.plain_data import read_yaml
from ghostify.graph.failure import describe_error
from ghostify.graph.meta_copy import copy_network
from ghostify.nn import GhostLayer
from ghostify.nn.memory_format import to_channels_last
from ghostify.passes.surgery import rewrite
from ghostify.saving import recipe as recipes
from ghostify.saving.card import CARD, is_untouched, put_card, write_card
from ghostify.saving.history import History, history_of, remember
from ghostify.saving.program import LoadedProgram
from ghostify.saving.recipe import SavedFolder
from ghostify.saving.sealed import SealedFile, may_be_left_over, remove, seal, sweep
from ghostify.saving.weights import fill, read_weights, state_tensors

RECIPE = "recipe.yaml"
READS = 20
"""How often a folder is read anew where another save takes its weights away meanwhile."""


def write_network(
    model: nn.Module, directory: Path, history: History, program: Path | None = None
) -> Path:
    """Write a network into a folder, and a model card beside it.

    Weights and program get names of their own and the recipe, which names them, is put into place
    last, by one rename: whenever a save is cut off, the folder is what it was, or is the new one.
    What saves that were killed left behind is removed; a save waits for another one into the same
    folder.

    Args:
        model: The network.
        directory: The folder.
        history: How the network came about.
        program: A file of `torch.export` that runs the network by itself; it is copied.

    Raises:
        SavedFolderError: The folder can't be written, or holds other things.
        BusyError: Another process goes on writing into it.
    """
    _check_history(model, history)
    tensors = state_tensors(model)
    with _explained(directory, "written"):
        check_target(directory)
        content = _Content(tensors, recipes.describe_network(model, history), history, program)
        with _folder(directory), drafts.alone_in(directory) as place:
            old = _files_named_in(directory)
            if old or not is_saved(directory):
                sweep(directory, old)
            new = _write(content, directory, place)
            for path in old - new:
                remove(path)
            sweep(directory, new)
    return directory


@dataclass(frozen=True)
class _Content:
    """What is written into a folder.

    Attributes:
        tensors: The weights.
        recipe: What the recipe says but for the names of files.
        history: How the network came about.
        program: A file that runs it by itself.
    """

    tensors: dict[str, Tensor]
    recipe: dict[str, Any]
    history: History
    program: Path | None

    def files(self) -> dict[str, Callable[[Path], object]]:
        """What writes each file, by its kind."""
        files: dict[str, Callable[[Path], object]] = {
            "weights": lambda path: save_file(self.tensors, path, metadata={"format": "pt"})
        }
        if self.program is not None:
            files["program"] = partial(shutil.copyfile, self.program)
        return files


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
            return folder, read_weights(folder)
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
    state = read_weights(folder) if state is None else state
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
    fill(network, state, folder)
    network.train(folder.training)
    for name, module in network.named_modules():
        if name in folder.exceptions:
            module.training = not folder.training
    remember(network, folder.history)
    return network


def _check_history(model: nn.Module, history: History) -> None:
    """Raise where the network's history does not tell how to rebuild it."""
    if isinstance(model, LoadedProgram):
        raise SavedFolderError(
            "This network is a program that was loaded, and has no weights of its own to save: "
            "copy the folder that it came from."
        )
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


def _write(content: _Content, directory: Path, place: Path) -> set[Path]:
    """Write all files under temporary names and rename them, the recipe last; what it names."""
    draft, card = place / "draft", place / "card"
    made: dict[str, SealedFile] = {}
    try:
        for kind, write in content.files().items():
            draft.touch()
            mode = draft.stat().st_mode
            write(draft)
            draft.chmod(mode)  # safetensors lets nobody but the owner read
            made[kind] = seal(draft, kind, directory)
            drafts.put(draft, made[kind].path)
        names = {kind: file.path.name for kind, file in made.items()}
        said = write_card(content.history, names["weights"], program=names.get("program"))
        card.write_text(said, encoding="utf-8", errors="backslashreplace")
        sealed = {kind: file.to_dict() for kind, file in made.items()}
        draft.write_text(recipes.to_yaml({**content.recipe, **sealed}), encoding="utf-8")
        drafts.put(draft, directory / RECIPE)
        put_card(card, directory / CARD)
    except BaseException:
        for path in {file.path for file in made.values()} - _files_named_in(directory):
            path.unlink(missing_ok=True)
        raise
    return {file.path for file in made.values()}


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


def check_named(directory: Any) -> None:
    """Raise where a folder is named by something else than a text or a path.

    Raises:
        SavedFolderError: It is.
    """
    if not isinstance(directory, str | os.PathLike):
        raise SavedFolderError(f"{shown(directory)} names no folder: give a text or a path.")


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
    if any(not (may_be_left_over(path.name) or _is_card(path)) for path in held):
        raise SavedFolderError(
            f"{directory} holds other things, and no saved network: give a new or empty folder."
        )


def _is_card(path: Path) -> bool:
    return path.name == CARD and is_untouched(path)


def _files_named_in(directory: Path) -> set[Path]:
    """The files of the network that a folder held so far."""
    if not is_saved(directory):
        return set()
    try:
        return {file.path for file in read(directory).files}
    except SavedFolderError:
        return set()


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
