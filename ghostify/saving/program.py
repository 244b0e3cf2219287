"""The program of a saved network: it runs where nothing builds the network itself.

A program of `torch.export` is code that is run, and is read by PyTorch's own reader, which promises
nothing about files of strangers: it is opened for those who trust it.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from ghostify.errors import ModelError, SavedFolderError, first_line
from ghostify.saving.recipe import SavedFolder
from ghostify.saving.sealed import AGAIN


class LoadedProgram(nn.Module):
    """A network as a program of `torch.export`: the inference form, in eval mode for good.

    Args:
        program: The program's module.
    """

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program, self.training = program, False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program on what the network takes."""
        return self.program(*args, **kwargs)

    def train(self, mode: bool = True) -> LoadedProgram:
        """Stay in eval mode.

        Raises:
            ModelError: Train mode is asked for.
        """
        if mode:
            raise ModelError(
                "This network is a program that was saved for inference, and can't be trained: "
                "load it with its original, ghostify.load(folder, model=original)."
            )
        return self


def open_program(folder: SavedFolder) -> LoadedProgram:
    """The program of a saved network.

    Raises:
        SavedFolderError: There is none, it is not what was saved, or this PyTorch can't read it.
    """
    if folder.program is None:
        raise SavedFolderError(f"{folder.directory} has no program: save it with program=True.")
    folder.program.check()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch about its own format
            return LoadedProgram(torch.export.load(folder.program.path).module())
    except Exception as error:  # another PyTorch's format, or operators that are not installed
        raise SavedFolderError(
            f"{folder.program.path} can't be read by PyTorch {torch.__version__} "
            f"({type(error).__name__}: {first_line(error).rstrip('.')}): use the one that saved "
            f"it, or {AGAIN}."
        ) from error
