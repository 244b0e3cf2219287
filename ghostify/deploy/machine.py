"""What times are measured on: the processor, and the devices beside it."""

from __future__ import annotations

import platform
import re
from contextlib import suppress
from pathlib import Path

import torch

from ghostify.errors import SettingsError, first_line


def processor_name(device: torch.device) -> str:
    """Name of the processor, or of the GPU."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    with suppress(OSError, UnicodeDecodeError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        found = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def device_of(name: torch.device | str) -> torch.device:
    """The device of that name.

    Raises:
        SettingsError: It is not to be had.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingsError(
            f"device={str(name)!r} is not to be had here ({first_line(error).rstrip('.')}): "
            "choose cpu, or another."
        ) from error
    return device


def has_device(kind: str) -> bool:
    """Whether there is a device of some kind here.

    Example:
        >>> has_device("cpu")
        True
    """
    try:
        device_of(kind)
    except SettingsError:
        return False
    return True
