"""Loading a saved network: its original built anew, rewritten, filled, and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from ghostify import zoo
from ghostify.cost.counting import count_both
from ghostify.cost.figures import Count
from ghostify.errors import ModelError, SavedFolderError, shown
from ghostify.numerics.surroundings import own_surroundings
from ghostify.reports.compare import compare
from ghostify.saving.building import build
from ghostify.saving.folder import check_named, read_whole, restore
from ghostify.saving.history import History, name_of, remember
from ghostify.saving.hub import fetch_folder, is_hub_name
from ghostify.saving.program import open_program
from ghostify.saving.recipe import SavedFolder, images_of
from ghostify.saving.untrusted import UntrustedError, check_source


@own_surroundings()
def load(
    directory: str | Path,
    model: nn.Module | None = None,
    *,
    trust: bool = False,
    input_size: Sequence[int] | None = None,
) -> nn.Module:
    """Load a saved network; its outputs are those of the one that was saved, bit for bit.

    Where nothing builds the original, and the folder has a program (``save(..., program=True)``),
    that is loaded if it is trusted: it runs anywhere, gives the same outputs within floating-point
    error, and can't be trained.

    Args:
        directory: What `save` wrote; or ``"hf://user/name"`` (``"hf://user/name@revision"``), what
            `push` sent to the Hugging Face Hub: recipe and weights are fetched, with ``trust`` the
            program too, and nothing else.
        model: The original network, where no name builds it; it is not changed.
        trust: Whether to import and call the ``module:factory`` that the folder names, with any
            arguments, and to run its program; without it, no more than a known architecture is
            built.
        input_size: ``(C, H, W)`` of the image that its `report` is for; if not given, what the
            costs were counted for when it was saved.

    Raises:
        SavedFolderError: The folder is no (whole) saved network, or doesn't fit ``model``.
        ModelError: The network can't take an image of ``input_size``.
    """
    check_named(directory)
    if not isinstance(model, nn.Module | None):
        raise ModelError(f"model={shown(model)} is no torch.nn.Module: give the original network.")
    is_alone = trust and model is None
    place = fetch_folder(directory, is_alone) if is_hub_name(directory) else Path(directory)
    folder, state = read_whole(place)
    try:
        original = _original(folder, trust) if model is None else model
    except SavedFolderError:
        if not is_alone or folder.program is None:
            raise
        program = open_program(folder)
        remember(program, History(folder.history.source))
        return program
    network = restore(folder, original, state)
    plans = folder.history.plans
    if plans:
        before, after = _recount(folder, original, network, input_size)
        told, start = compare(name_of(network), plans, before, after), folder.history.start
        told = told if start is None else start.annotate(told)
        remember(network, replace(folder.history, report=told))
    return network


def _original(folder: SavedFolder, trust: bool) -> nn.Module:
    """The original of a saved network, built from the name that the folder tells."""
    directory, source = folder.directory, folder.history.source
    if source is None:
        raise SavedFolderError(
            f"{directory} does not say what builds the original network: "
            f"give it, load(directory, model=original){_or_program(folder)}."
        )
    if zoo.runs_user_code(source.name) and not trust:
        raise SavedFolderError(
            f"{directory} names code, {source.name!r}, that builds the original network: give "
            "trust=True (--trust) to run it, or the network itself, load(..., model=original)."
        )
    try:
        if not trust:
            check_source(source)
        return build(source.name, source.model_args)
    except UntrustedError as error:
        raise SavedFolderError(
            f"{directory} asks for more than a known architecture ({error}): give trust=True "
            "(--trust) if you trust it, or the original network, load(..., model=original)."
        ) from error
    except ModelError as error:
        raise SavedFolderError(
            f"The original network of {directory} can't be built. {error}"
        ) from error


def _or_program(folder: SavedFolder) -> str:
    return "" if folder.program is None else ", or trust=True (--trust) to run the program in it"


def _recount(
    folder: SavedFolder,
    original: nn.Module,
    network: nn.Module,
    input_size: Sequence[int] | None,
) -> tuple[Count, Count]:
    """Costs before and after, for the image that is asked for, or the inputs of the save."""
    if input_size is not None or not (folder.input_shapes or folder.inputs):
        return count_both(original, network, None, input_size)
    try:
        if folder.inputs is not None:
            return count_both(original, network, folder.inputs)
        return count_both(original, network, images_of(network, folder.input_shapes))
    except ModelError:  # inputs that shapes alone don't describe
        return count_both(original, network)
