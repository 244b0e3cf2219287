"""The state of a run in a file, always whole: a run that was killed goes on from it exactly."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ghostify.errors import GhostifyError, SettingsError, first_line
from ghostify.files import drafts, reading

CHECKPOINT_FORMAT = "ghostify.checkpoint/1"
FOLDER = "training"
"""Inside the folder of a tuned network: checkpoint, metrics, events."""


class CheckpointError(GhostifyError):
    """A checkpoint can't be written or read, or is that of another run."""


def path_in(output: Path) -> Path:
    """Path of a run's checkpoint."""
    return output / FOLDER / "checkpoint.pt"


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint under another name and rename it: there is never half of one.

    Raises:
        CheckpointError: It can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with drafts.written_whole(path) as draft, draft.open("wb") as stream:
            torch.save({"format": CHECKPOINT_FORMAT, **state}, stream)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} can't be written ({first_line(error)}): give a folder with room that you may "
            "write to."
        ) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; no code in it is run.

    Raises:
        CheckpointError: It is damaged, or of another ghostify.
    """
    try:
        with reading(path, "start again, in another folder", CheckpointError):
            state = torch.load(path, map_location="cpu", weights_only=True)
            found = state["format"]
    except CheckpointError:
        raise
    except Exception as error:  # bytes that are no checkpoint break the reader in any way
        raise CheckpointError(
            f"{path} can't be read ({first_line(error) or type(error).__name__}): start again, "
            "in another folder."
        ) from error
    if found != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path} has the format {found!r}, and this ghostify reads {CHECKPOINT_FORMAT!r}: use "
            "the ghostify that wrote it, or start again in another folder."
        )
    return state


def check_same(path: Path, state: Mapping[str, Any], own: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise where a checkpoint is of a run with other settings, data or networks.

    Args:
        path: Of the checkpoint.
        state: What it holds.
        own: By the same keys: what this run has.
    """
    for key, mine in own.items():
        theirs = state[key]
        for name in mine:
            if theirs.get(name) != mine[name]:
                raise SettingsError(
                    f"The run in {path.parent.parent} had {key} {name}={theirs.get(name)!r}, and "
                    f"this one has {mine[name]!r}: resume with the same, or start in another "
                    "folder."
                )


def digest(network: nn.Module | None) -> str:
    """A short checksum of a network's state; empty for none."""
    if network is None:
        return ""
    found = hashlib.sha256()
    for key, value in network.state_dict().items():
        found.update(key.encode())
        found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:16]
