"""Saved folders on the Hugging Face Hub: a repository holds weights, recipe, card, program.

Nothing else is sent, nothing else is fetched, and what is fetched is read as any folder is.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

from ghostify.errors import SavedFolderError, SettingsError, first_line, shown
from ghostify.saving.card import CARD, address_card, is_untouched, warn_of_card, write_card
from ghostify.saving.folder import RECIPE, read, read_whole

PREFIX = "hf://"
_PART = r"(?![.-])[\w.-]{1,96}(?<![.-])"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}", re.ASCII)
_REVISION = re.compile(r"(?![-/.])[\w./-]{1,250}", re.ASCII)


def is_hub_name(place: Any) -> TypeGuard[str]:
    """Whether a place is one on the Hub: ``hf://user/name``, or ``hf://user/name@revision``."""
    return isinstance(place, str) and place.startswith(PREFIX)


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    message: str = "Saved by ghostify",
    token: str | None = None,
) -> str:
    """Send a saved network to the Hugging Face Hub, in one commit.

    Weights, recipe and model card are sent, and the program where there is one.

    The repository is made where it is not there. A card that was edited there stays, unless the one
    in the folder was edited too.

    Args:
        folder: What `save` wrote.
        repo_id: The repository, ``"user/name"``.
        private: Whether a new repository is private; None for the account's own choice.
        message: Of the commit.
        token: Of the account; None for the one that ``hf auth login`` or ``HF_TOKEN`` gave.

    Returns:
        The address of the repository.

    Raises:
        SavedFolderError: The folder is no (whole) saved network, or can't be sent.
        GhostifyError: The extra ``hub`` is not installed.
    """
    directory = Path(folder)
    name = repo_id.removeprefix(PREFIX) if isinstance(repo_id, str) else repo_id
    if not isinstance(name, str) or not _REPOSITORY.fullmatch(name):
        raise SettingsError(f"{shown(repo_id)} is no repository: give it as user/name.")
    saved, _ = read_whole(directory)
    api, hub = _open_hub(token)
    with _explained(f"{directory} can't be sent to {PREFIX}{name}", hub):
        url = api.create_repo(name, private=private, exist_ok=True)
        sent: dict[str, Path | bytes] = {file.path.name: file.path for file in saved.files}
        sent[RECIPE] = directory / RECIPE
        card = _card_to_send(directory, name, api, hub)
        if card is not None:
            sent[CARD] = card
        additions = [
            hub.CommitOperationAdd(path_in_repo=place, path_or_fileobj=content)
            for place, content in sent.items()
        ]
        api.create_commit(name, operations=additions, commit_message=message)
    return str(url)


def fetch_folder(place: str, program: bool = False) -> Path:
    """Fetch a saved network from the Hub: its recipe, and the weights that the recipe names.

    They are of one commit, and come from the Hub's cache where they are there already.

    Args:
        place: ``hf://user/name``, or ``hf://user/name@revision``.
        program: Whether to fetch the program too, where there is one.

    Returns:
        The folder that has them.

    Raises:
        SavedFolderError: There is no such repository, or it holds no saved network.
        GhostifyError: The extra ``hub`` is not installed.
    """
    name, at, revision = place.removeprefix(PREFIX).partition("@")
    if not _REPOSITORY.fullmatch(name) or (at and not _REVISION.fullmatch(revision)):
        raise SavedFolderError(
            f"{shown(place)} is no place on the Hub: give it as hf://user/name or "
            "hf://user/name@revision."
        )
    api, hub = _open_hub(None)
    with _explained(f"{place} can't be fetched", hub):
        recipe = Path(api.hf_hub_download(name, RECIPE, revision=revision or None))
        folder = recipe.parent
        saved = read(folder)  # says what is wrong before anything large comes
        for file in saved.files if program else [saved.weights]:
            # A snapshot's folder has the name of its commit.
            api.hf_hub_download(name, file.path.name, revision=folder.name)
    return folder


def _card_to_send(directory: Path, name: str, api: Any, hub: Any) -> bytes | None:
    """The card to send; None where the one in the repository is somebody's own."""
    card = directory / CARD
    if not is_untouched(card):
        return card.read_bytes() if card.is_file() else None
    with tempfile.TemporaryDirectory() as place:
        try:
            there = Path(api.hf_hub_download(name, CARD, local_dir=place))
        except hub.errors.LocalEntryNotFoundError:  # not reached: whether it has one is not known
            raise
        except (hub.errors.EntryNotFoundError, hub.errors.RevisionNotFoundError):
            there = None  # a new repository has none, or not even a commit
        if there is not None and not is_untouched(there):
            warn_of_card(f"{CARD} of {PREFIX}{name}")
            return None
    if card.is_file():
        text = address_card(card.read_text(encoding="utf-8"), f"{PREFIX}{name}")
    else:  # an older save wrote none
        saved = read(directory)
        runs = None if saved.program is None else saved.program.path.name
        text = write_card(saved.history, saved.weights.path.name, f"{PREFIX}{name}", runs)
    return text.encode("utf-8", errors="backslashreplace")


def _open_hub(token: str | None) -> tuple[Any, Any]:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise SavedFolderError(
            "The Hugging Face Hub needs huggingface_hub: pip install 'ghostify[hub]'."
        ) from error
    return huggingface_hub.HfApi(token=token), huggingface_hub


@contextmanager
def _explained(what: str, hub: Any) -> Iterator[None]:
    """Turn faults of the Hub and of the way there into one sentence."""
    errors = hub.errors
    reasons = {
        errors.LocalEntryNotFoundError: "the Hub can't be reached, and it is not in the cache",
        errors.EntryNotFoundError: f"it is no saved network: it has no {RECIPE}, or lacks weights",
        errors.RevisionNotFoundError: "there is no such revision",
        errors.RepositoryNotFoundError: (
            "there is no such repository, or it is private and no token is there: hf auth login"
        ),
        errors.LocalTokenNotFoundError: "no token is there: hf auth login",
    }
    try:
        yield
    except SavedFolderError:
        raise
    except Exception as error:  # the Hub's own errors, and those of its HTTP library
        known = next((why for kind, why in reasons.items() if isinstance(error, kind)), None)
        reason = known or f"{type(error).__name__}: {first_line(error).rstrip('.')}"
        raise SavedFolderError(f"{what} ({reason}).") from error
