"""Networks by name that remember it, so that they can be saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ghostify import zoo
from ghostify.errors import ModelError, shown
from ghostify.saving.history import Source, remember_source


def build(
    name: str,
    model_args: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
) -> nn.Module:
    """Build a network from its name, and remember the name, so that it can be saved and loaded.

    Args:
        name: A name that `models` lists (``resnet50``, ``timm/NAME``, ``resnet56-cifar``),
            ``package.module:factory`` or ``file.py:factory``.
        model_args: Keyword arguments for the factory.
        weights: A safetensors file, a checkpoint, or a name of torchvision's weights.

    Raises:
        ModelError: There is no such model, or its factory fails.
        WeightsError: The weights can't be read or don't fit.
    """
    model = zoo.build_model(name, model_args, weights)
    remember_source(model, Source(name, dict(model_args or {})))
    return model


def network_of(model: nn.Module | str) -> nn.Module:
    """A network as it is, or built from its name.

    Raises:
        ModelError: It is neither.
    """
    network = build(model) if isinstance(model, str) else model
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"{shown(network)} is no torch.nn.Module and no name of one: give a network, or a name "
            "that ghostify.list_models() has."
        )
    return network
