"""Checks of the networks that are tuned and evaluated, where they enter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ghostify.data.image_files import DataError
from ghostify.data.pools import Pool
from ghostify.errors import ModelError, first_line


def check_network(network: Any, name: str = "network") -> None:
    """Raise where something is no network.

    Args:
        network: What was given.
        name: What errors call it.

    Raises:
        ModelError: It is no module.
    """
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"The {name} is a {type(network).__name__}, and no torch.nn.Module: give the network "
            "itself (of an exported program, the one that was exported)."
        )


def check_tunable(network: nn.Module) -> None:
    """Raise where a network, a copy of what was given, has nothing that can be tuned.

    Raises:
        ModelError: Its parameters are frozen or computed, or it has none.
    """
    parameters = list(network.parameters())
    if not all(parameter.is_leaf for parameter in parameters):
        raise ModelError(
            f"The parameters of a copied {type(network).__name__} can't be tuned: give the network "
            "itself (of a scripted or traced one, the one that it was made of)."
        )
    if not any(parameter.requires_grad for parameter in parameters):
        what = "all its parameters are frozen" if parameters else "it has no parameters"
        raise ModelError(
            f"The network has nothing to tune, since {what}: give one with parameters that require "
            "gradients."
        )


def check_classes(pool: Pool, labels: Tensor, outputs: int) -> None:
    """Raise where the classes of the data are not those of the network.

    Args:
        pool: The data.
        labels: Of a batch, ``(N,)``.
        outputs: Number of the network's class scores.

    Raises:
        DataError: They are not.
    """
    if pool.classes is not None and len(pool.classes) != outputs:
        raise DataError(
            f"The data has {len(pool.classes)} classes ({', '.join(pool.classes[:3])}, ...) and "
            f"the network {outputs} outputs: give data of the classes it was trained on."
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < outputs:
        raise DataError(
            f"The data has labels {int(labels.min())} to {int(labels.max())} and the network "
            f"{outputs} outputs: give data of the classes it was trained on."
        )


@contextmanager
def modes_told(network: nn.Module, name: str = "network") -> Iterator[None]:
    """Turn a network's refusal to change between train and eval mode into one sentence.

    Raises:
        ModelError: It can't, as the module of an exported program can't.
    """
    try:
        yield
    except NotImplementedError as error:
        raise ModelError(
            f"The {name}, a {type(network).__name__}, has no train and eval mode "
            f"({first_line(error).rstrip('.')}): give "
            "the network itself (of an exported program, the one that was exported)."
        ) from error
