"""What a bug report needs to know of a machine: versions, extras, runtimes, processor, threads."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ghostify._version import __version__
from ghostify.deploy.contest import timer_for
from ghostify.deploy.machine import has_device, processor_name
from ghostify.deploy.program import Program
from ghostify.deploy.runtimes import RUNTIMES, Way
from ghostify.deploy.timing import alternate
from ghostify.documents import Document, Table, Writable, plain_columns
from ghostify.errors import SettingsError, first_line
from ghostify.numerics.random_state import keep_random_state

SCHEMA = "ghostify.doctor/1"
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "KMP_AFFINITY", "CUDA_VISIBLE_DEVICES")
"""Environment variables that change how fast PyTorch is."""

CLOSE = 0.05
"""Times that differ by less than this part say nothing."""


@dataclass(frozen=True)
class FormatTime:
    """Time of one kind of layer with channels last, beside the usual layout.

    Attributes:
        layer: The layer.
        ratio: Time with channels last over that of contiguous maps.
    """

    layer: str
    ratio: float


@dataclass(frozen=True)
class Environment(Writable):
    """A machine and what is installed on it; nothing of it names its user or its folders.

    Attributes:
        versions: Version of Python and of each package that ghostify uses; None where it is not
            installed.
        extras: For each of ghostify's extras the packages that it lacks here.
        runtimes: For each runtime of `benchmark` why it can't be used here; None where it can.
        system: Operating system and processor.
        torch: What PyTorch says of itself: threads, the processor's capability, devices.
        variables: Environment variables that change its speed; those that are set.
        formats: Measured times of memory formats.
        notes: What stands out.
    """

    versions: Mapping[str, str | None]
    extras: Mapping[str, tuple[str, ...]]
    runtimes: Mapping[str, str | None]
    system: Mapping[str, str]
    torch: Mapping[str, str]
    variables: Mapping[str, str]
    formats: tuple[FormatTime, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def advice(self) -> str:
        """Which memory format to take for convolutions in PyTorch on this processor."""
        if not self.formats:
            return "memory format: not measured"
        better = [row.ratio < 1 - CLOSE for row in self.formats]
        worse = [row.ratio > 1 + CLOSE for row in self.formats]
        how = ", ".join(f"{row.layer} {row.ratio:.2f}" for row in self.formats)
        times = f"(time of channels_last / contiguous: {how})"
        if any(better) and not any(worse):
            return f"memory format: channels_last is faster here {times}"
        if any(worse) and not any(better):
            return f"memory format: contiguous is faster here {times}"
        return f"memory format: measure it, ghostify bench tries both {times}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"schema": SCHEMA, **asdict(self), "advice": self.advice}

    def document(self) -> Document:
        """What is there, and what is not."""
        versions = [(name, version or "not installed") for name, version in self.versions.items()]
        extras = [(e, f"lacks {', '.join(m)}" if m else "there") for e, m in self.extras.items()]
        runtimes = [(name, reason or "there") for name, reason in self.runtimes.items()]
        machine = [*self.system.items(), *self.torch.items(), *self.variables.items()]
        return Document(
            f"ghostify {__version__}",
            [
                _table("Versions", versions),
                _table("Machine", machine),
                _table("Runtimes", runtimes),
                _table("Extras", extras),
            ],
            footnotes=[self.advice, *self.notes],
        )


@keep_random_state()
def collect_environment(measure: bool = True) -> Environment:
    """Look at this machine and at what is installed.

    Args:
        measure: Whether the memory formats are timed (about a second).

    Example:
        >>> "torch" in collect_environment(measure=False).versions
        True
    """
    needed = _requirements()
    extras = {extra: needed[extra] for extra in needed if extra}
    first = ["torch", "torchvision"]
    packages = dict.fromkeys([*first, *sorted({n for names in needed.values() for n in names})])
    versions = {"python": platform.python_version(), "ghostify": __version__}
    installed = {name: _version(name) for name in packages}
    return Environment(
        versions={**versions, **{n: v for n, v in installed.items() if v is not None}},
        extras={e: tuple(n for n in names if installed[n] is None) for e, names in extras.items()},
        runtimes={name: _lack_of(name) for name in RUNTIMES},
        system=_system(),
        torch=_torch(),
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
        formats=_time_formats() if measure else (),
        notes=tuple(_notes()),
    )


def _table(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    name, value = plain_columns("", title)
    return Table([name, _wrapping(value)], list(rows))


def _wrapping(column: Any) -> Any:
    return type(column)(column.title, column.cell, wraps=True)


def _requirements() -> dict[str, tuple[str, ...]]:
    """The packages of each extra, those that others bring included; the empty name is no extra."""
    try:
        lines = importlib.metadata.requires("ghostify") or []
    except importlib.metadata.PackageNotFoundError:  # run from its source
        return {}
    found: dict[str, list[str]] = {"": []}
    for line in lines:
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
        found.setdefault(extra[1] if extra else "", []).append(line)
    return {extra: tuple(dict.fromkeys(_names(found, extra))) for extra in found}


def _names(found: Mapping[str, list[str]], extra: str) -> list[str]:
    names = []
    for line in found.get(extra, ()):
        own = re.match(r"ghostify\[([\w,\s-]+)\]", line)
        if own:
            inner = (part.strip() for part in own[1].split(","))
            names += [name for part in inner if part != extra for name in _names(found, part)]
        else:
            names.append(re.split(r"[^\w.-]", line)[0])
    return names


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _lack_of(runtime: str) -> str | None:
    """Why a runtime can't be used here."""
    chosen = RUNTIMES[runtime]
    kinds = [kind for kind in chosen.devices if has_device(kind)]
    if not kinds:
        return f"needs {' or '.join(chosen.devices)}"
    try:
        chosen.require(torch.device(kinds[0]), None)
    except SettingsError as error:
        return str(error).rstrip(".")
    return None


def _system() -> dict[str, str]:
    return {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "processor": processor_name(torch.device("cpu")),
        "cores": f"{_usable_cores()} of {os.cpu_count()} usable",
    }


def _usable_cores() -> int:
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _torch() -> dict[str, str]:
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    devices = [*cuda, *(["mps"] if has_device("mps") else [])]
    return {
        "torch threads": f"{torch.get_num_threads()} ({torch.get_num_interop_threads()} interop)",
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
        "oneDNN": "yes" if torch.backends.mkldnn.is_available() else "no",
        "devices": ", ".join(devices) or "cpu alone",
    }


def _notes() -> list[str]:
    threads, cores = torch.get_num_threads(), _usable_cores()
    if threads > cores:
        return [
            f"PyTorch takes {threads} threads for {cores} cores: torch.set_num_threads({cores})"
        ]
    return []


def _time_formats() -> tuple[FormatTime, ...]:
    """A dense, a depth-wise and a 1x1 convolution, with maps in both layouts."""
    layers = {
        "3x3": nn.Conv2d(64, 64, 3, padding=1),
        "depth-wise": nn.Conv2d(64, 64, 3, padding=1, groups=64),
        "1x1": nn.Conv2d(64, 64, 1),
    }
    try:
        return tuple(FormatTime(name, _ratio(layer)) for name, layer in layers.items())
    except RuntimeError as error:  # a build of PyTorch that can't
        raise SettingsError(f"PyTorch can't run a convolution: {first_line(error)}") from error


def _ratio(layer: nn.Module) -> float:
    threads = torch.get_num_threads()
    program = Program(layer.eval(), (torch.rand(1, 64, 56, 56),))
    works = {
        form: RUNTIMES["eager"].prepare(program, Way(threads, form, Path()))
        for form in ("contiguous", "channels_last")
    }
    timer = timer_for(torch.device("cpu"), threads)
    timings = alternate(works, seconds=0.4, precision=0.03, timer=timer)
    return round(timings["channels_last"].ratio, 3)
