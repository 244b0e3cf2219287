"""The engine that brings devices, precision and processes: Lightning Fabric."""

from __future__ import annotations

import importlib.util
import logging
import os
import platform
import warnings
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ghostify.errors import GhostifyError, GhostifyWarning, SettingsError, first_line
from ghostify.settings.base import check_choice

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


MAX_DEVICES = 4096
"""Devices at most: each has a process."""


def open_engine(
    accelerator: str = "auto",
    devices: int | str = "auto",
    precision: str = "fp32",
) -> Fabric:
    """Start the engine on what there is: a CPU, a GPU, the processes that torchrun started.

    Args:
        accelerator: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        devices: How many; under torchrun its processes say it.
        precision: One of `PRECISIONS`.

    Raises:
        GhostifyError: The engine is not installed.
        SettingsError: There are no such devices, or they can't do this precision.
    """
    check_choice("precision", precision, tuple(PRECISIONS))
    if importlib.util.find_spec("lightning_fabric") is None:
        raise GhostifyError(
            "Tuning and evaluating need Lightning Fabric, which is not installed: "
            "pip install 'ghostify[train]'."
        )
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    options: dict[str, Any] = {"devices": _count(devices)}
    if "LOCAL_WORLD_SIZE" in os.environ and "WORLD_SIZE" in os.environ:
        here, all_of_them = (int(os.environ[k]) for k in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
        options = {"devices": here, "num_nodes": all_of_them // here}
    if options["devices"] not in (1, "auto") or options.get("num_nodes", 1) > 1:
        # A network may have heads that a forward does not use: their parameters get no gradient.
        options["strategy"] = DDPStrategy(find_unused_parameters=True)
        warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
    try:
        fabric = Fabric(accelerator=accelerator, precision=PRECISIONS[precision], **options)  # type: ignore[arg-type]
        fabric.launch()
    except (ValueError, RuntimeError, TypeError) as error:
        raise SettingsError(
            f"accelerator={accelerator!r}, devices={devices!r} and precision={precision!r} don't "
            f"work here ({first_line(error).rstrip('.')}): give others."
        ) from error
    except Exception as error:
        if type(error).__name__ != "MisconfigurationException":
            raise
        raise SettingsError(
            f"accelerator={accelerator!r} with devices={devices!r} is not there "
            f"({first_line(error).rstrip('.')}): give others."
        ) from error
    if precision == "bf16" and fabric.device.type == "cpu" and not _may_have_bf16():
        warnings.warn(
            "This processor has no instructions for bf16, which makes it several times slower than "
            "fp32: leave precision out.",
            GhostifyWarning, stacklevel=2,
        )  # fmt: skip
    return fabric


def _may_have_bf16() -> bool:
    """Whether a processor computes in bf16, as far as PyTorch can tell."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    asked = (getattr(torch.cpu, name, None) for name in
             ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))  # fmt: skip
    known = [bool(ask()) for ask in asked if ask is not None]
    return any(known) or not known


def combine(fabric: Fabric, value: Tensor, how: Literal["sum", "mean"]) -> Tensor:
    """A tensor's sum or mean over all processes, on the device that it is on."""
    if fabric.world_size == 1:
        return value
    found = fabric.all_reduce(fabric.to_device(value.clone()), reduce_op=how)
    assert isinstance(found, Tensor)
    return found.to(value.device)


def is_first_process() -> bool:
    """Whether this is the process that writes and speaks, known before the engine starts."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def _count(devices: int | str) -> int | str:
    """``"2"`` as 2; what is no number is the engine's to judge."""
    count = devices
    if isinstance(devices, str) and devices.isdecimal():
        count = int(devices) if len(devices) < 10 else MAX_DEVICES + 1
    if isinstance(count, int) and count > MAX_DEVICES:
        raise SettingsError(f"devices={devices} makes no sense: give {MAX_DEVICES} at most.")
    return count
