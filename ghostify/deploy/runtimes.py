"""What a network is run in: PyTorch itself, its compiler, and the runtimes of files."""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ghostify.deploy.apart import MAKERS
from ghostify.deploy.formats import FORMATS, Format, torch_threads, write, write_several
from ghostify.deploy.fusing import fuse
from ghostify.deploy.keeping_apart import IN_TORCH
from ghostify.deploy.program import Program
from ghostify.deploy.timing import Work
from ghostify.errors import SettingsError

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True)
class Way:
    """How a program is run.

    Attributes:
        threads: Number of threads.
        form: One of the runtime's forms.
        folder: Where files may be written; it lasts as long as the program is run.
    """

    threads: int
    form: str
    folder: Path


@dataclass(frozen=True)
class Runtime:
    """Something that runs networks.

    Attributes:
        name: Its name.
        prepare: Makes of a program, in its inference form, what runs it once.
        forms: The memory formats that it is tried in; one empty name where there is no choice.
        format: The file format that it runs, if it runs files.
        devices: Kinds of device that it runs on here.
        package: The package whose version is the runtime's.
        addition: What adding to a map costs in PyTorch (see `fuse`); of files the format says.
    """

    name: str
    prepare: Callable[[Program, Way], Work]
    forms: tuple[str, ...] = ("",)
    format: Format | None = None
    devices: tuple[str, ...] = ("cpu",)
    package: str = "torch"
    addition: float | None = None

    def require(self, device: torch.device, dtype: torch.dtype | None) -> None:
        """Raise `SettingsError` where it is not installed, or runs no such device or dtype."""
        if self.format is not None:
            self.format.require()
        if device.type not in self.devices:
            known = " or ".join(self.devices)
            raise SettingsError(
                f"{self.name} runs on {known} here, not on {device}: choose another runtime "
                "or device."
            )
        if self.format is not None and dtype not in (None, torch.float32):
            raise SettingsError(
                f"{self.name} is measured in float32 alone, not in {dtype_name(dtype)}: "
                "leave dtype out, or choose eager or compile."
            )

    @property
    def version(self) -> str:
        """Version of its package; empty where that says none."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return ""

    def prepare_all(self, programs: Sequence[Program], ways: Sequence[Way]) -> list[Work]:
        """`prepare` for several programs, in less time where the format writes them together."""
        kind = self.format
        if kind is None or kind.write_several is None:
            return [self.prepare(*pair) for pair in zip(programs, ways, strict=True)]
        paths = [file_of(kind, way.folder) for way in ways]
        write_several(kind, programs, paths)
        return [
            _work_of_file(kind, path, program, way.threads)
            for path, program, way in zip(paths, programs, ways, strict=True)
        ]

    def program(self, network: nn.Module, args: tuple[Any, ...], device: torch.device) -> Program:
        """A network in the forms of which the fastest is looked for.

        In PyTorch it depends on the size of the maps whether a concat costs more than what leaving
        it out takes; a file is written without asking how many images it will get.

        Args:
            network: Any network; it is not changed.
            args: What it takes.
            device: Where it will run.
        """
        concat = device.type != "cpu"
        fused = self.inference_form(network, concat=concat)
        other: nn.Module | None = None
        if self.format is None and any(isinstance(m, MAKERS) for m in fused.modules()):
            other = self.inference_form(network, concat=True)
        return Program(fused, args, with_concats=other)

    def inference_form(self, network: ModuleT, *, concat: bool = False) -> ModuleT:
        """The copy of a network that it runs fastest; see `fuse`.

        Args:
            network: Any network; it is not changed.
            concat: Whether each ghost module concatenates its maps, as is faster on a GPU.
        """
        folds = self.format is None or self.format.folds_ghost_norms
        addition = self.addition if self.format is None else self.format.addition
        return fuse(network, fold_ghost_norms=folds, addition=None if concat else addition)


def dtype_name(dtype: torch.dtype | None) -> str:
    """``float32`` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


MEMORY_FORMATS = {
    "channels_last": torch.channels_last,
    "contiguous": torch.contiguous_format,
}


def _eager(program: Program, way: Way) -> Work:
    return _in_torch(*_laid_out(program, way), way.threads)


def _compiled(program: Program, way: Way) -> Work:
    network, args = _laid_out(program, way)
    return _in_torch(torch.compile(network), args, way.threads)


def _captured(program: Program, way: Way) -> Work:
    """The kernels of a run, recorded once and started together."""
    work = _eager(program, way)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what is set up at first must not be captured
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def _laid_out(program: Program, way: Way) -> tuple[nn.Module, tuple[Any, ...]]:
    """A copy of a network and its arguments with images in a memory format."""
    memory_format = MEMORY_FORMATS[way.form]

    def lay(leaf: Any) -> Any:
        is_image = isinstance(leaf, Tensor) and leaf.dim() == 4
        return leaf.contiguous(memory_format=memory_format) if is_image else leaf

    laid = copy.deepcopy(program.network)
    with torch.no_grad():
        for parameter in laid.parameters():
            parameter.data = lay(parameter.data)
    return laid, pytree.tree_map(lay, program.args)


def _in_torch(network: Callable[..., Any], args: tuple[Any, ...], threads: int) -> Work:
    def run() -> None:
        with torch.inference_mode(), torch_threads(threads):
            network(*args)

    return run


def file_of(kind: Format, folder: Path) -> Path:
    """Where the file of a program that is measured lies."""
    return folder / f"network{kind.suffix}"


def _of_file(kind: Format) -> Callable[[Program, Way], Work]:
    def prepare(program: Program, way: Way) -> Work:
        path = file_of(kind, way.folder)
        write(kind, program, path)
        return _work_of_file(kind, path, program, way.threads)

    return prepare


def _work_of_file(kind: Format, path: Path, program: Program, threads: int) -> Work:
    session, tensors = kind.open(path, threads), program.tensors
    return lambda: session(tensors)


_IN_TORCH = ("cpu", "cuda", "mps")
RUNTIMES: dict[str, Runtime] = {
    "eager": Runtime("eager", _eager, tuple(MEMORY_FORMATS), devices=_IN_TORCH, addition=IN_TORCH),
    "compile": Runtime("compile", _compiled, tuple(MEMORY_FORMATS), devices=_IN_TORCH),
    "cudagraph": Runtime("cudagraph", _captured, tuple(MEMORY_FORMATS), devices=("cuda",)),
    **{
        name: Runtime(name, _of_file(FORMATS[kind]), format=FORMATS[kind], package=package)
        for name, kind, package in (
            ("onnxruntime", "onnx", "onnxruntime"),
            ("openvino", "openvino", "openvino"),
            ("aoti", "aoti", "torch"),
            ("executorch", "executorch", "executorch"),
            ("litert", "litert", "ai-edge-litert"),
        )
    },
}
"""The runtimes by their names; a new one is one more entry."""
